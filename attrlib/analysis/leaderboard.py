"""Leaderboards of a run: one row for each method, best first, with the values that the paper reports."""

import math
from collections.abc import Mapping
from dataclasses import replace

from attrlib.analysis.paper_values import published
from attrlib.engine.results import RunResult
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Summary


def leaderboard(result: RunResult, protocol: ProtocolSpec, classes: int) -> list[LeaderboardRow]:
    """Return the leaderboard of a protocol, best first, with the values of the paper.

    Args:
        result: The results of a run.
        protocol: A protocol of the run that has scores.
        classes: Number of classes of the data.
    """
    scores = {str(method): score for method, score in result.of_protocol(protocol).items()}
    values = {name: published(score.spec, classes) for name, score in scores.items()}
    return [row if (value := values[row.method]) is None else replace(row, paper=value) for row in result.leaderboard(protocol)]


def live_leaderboard(scores: Mapping[tuple[str, str], Summary], protocol: ProtocolSpec) -> list[LeaderboardRow]:
    """Return the leaderboard of a protocol during a run, best first, without ranks (which need all values) and seconds.

    Args:
        scores: Summary of the items so far by protocol and method, in text form, as an event of the run holds them.
        protocol: The protocol to show.

    Returns:
        One row for each method that has a result, those without any defined value last.
    """
    judge = create(protocol)
    sign = -1 if judge.higher_is_better else 1
    summaries = {method: s for (name, method), s in scores.items() if name == str(protocol) and s.n + s.undefined}
    ranked = sorted(summaries.items(), key=lambda pair: sign * pair[1].mean if pair[1].n else math.inf)
    return [
        LeaderboardRow(
            protocol=str(protocol), method=method, mean=s.mean, low=s.low, high=s.high, n=s.n + s.undefined, undefined=s.undefined,
            chance=judge.chance_level,
        )
        for method, s in ranked
    ]  # fmt: skip
