"""Stop a run as soon as its confidence intervals are narrow enough."""

from collections.abc import Sequence, Set

import numpy as np

from attrlib.engine.partial import PartialResults
from attrlib.engine.plan import GroupPlan
from attrlib.specs import RunSpec
from attrlib.statistics import summary

MIN_ITEMS_FOR_WIDTH = 10
"""Minimum number of items before the width of an interval may stop a run."""


def narrow_after(plan: GroupPlan, progress: Sequence[PartialResults], spec: RunSpec, open_chunks: Set[int], first: int) -> int | None:
    """Return the number of items after which every interval of a group is narrow enough, None if there is none.

    Only the ends of chunks are considered, in order and up to the first chunk that is not complete, so that the answer does not depend on
    the order in which results arrive.

    Args:
        plan: The group.
        progress: The results of its evaluations.
        spec: The run, whose `ci_width` is the maximum width.
        open_chunks: Numbers of the chunks that are not complete.
        first: Number of the first chunk to check.
    """
    if spec.ci_width is None:
        return None
    size = plan.group.chunk_size
    chunks = -(-len(plan.items) // size)
    ends = (min((number + 1) * size, len(plan.items)) for number in range(first, min(open_chunks, default=chunks)))
    return next((end for end in ends if _is_narrow(progress, end, spec)), None)


def _is_narrow(progress: Sequence[PartialResults], end: int, spec: RunSpec) -> bool:
    assert spec.ci_width is not None
    summaries = [summary(each.counted(np.flatnonzero(each.done[:end]))) for each in progress]
    return all(s.n >= MIN_ITEMS_FOR_WIDTH and s.high - s.low <= spec.ci_width for s in summaries)
