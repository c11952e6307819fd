"""Scores with given values, without a model or a run."""

from collections.abc import Mapping, Sequence

import numpy as np

from attrlib.engine.results import RunResult, Score
from attrlib.protocols import create
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec


def score(
    values: Sequence[float] | np.ndarray,
    ids: Sequence[str] | None = None,
    method: str = "IxG",
    protocol: str = "sds",
    seconds: float = float("nan"),
) -> Score:
    """Return a score of these values, (n,), of items with these ids."""
    spec = ProtocolSpec.parse(protocol)
    ids = ids or [f"item{i}" for i in range(len(values))]
    run = RunSpec(ModelSpec("m"), "d", (spec,), (MethodSpec.parse(method),))
    items, details = tuple((i,) for i in range(len(ids))), ({},) * len(ids)
    return Score(run, create(spec), np.asarray(values, dtype=float), tuple(ids), items, details, seconds)


def result_of(values: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]) -> RunResult:
    """Return the results of a run with these values by protocol and method."""
    scores = {(ProtocolSpec.parse(p), MethodSpec.parse(m)): score(own, None, m, p) for p, of in values.items() for m, own in of.items()}
    run = RunSpec(ModelSpec("m"), "d", tuple(dict.fromkeys(p for p, _ in scores)), tuple(dict.fromkeys(m for _, m in scores)))
    return RunResult(run, scores)
