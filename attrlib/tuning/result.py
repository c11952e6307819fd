"""The result of a search: its trials, and the held-out scores of the best setting and of the default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attrlib.analysis.differences import paired
from attrlib.engine.results import Score
from attrlib.figures.numbers import json_value, number
from attrlib.specs import ExplainSpec, MethodSpec, TuneSpec
from attrlib.statistics import Difference, Summary

DECIMALS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting and its score on the items of the search, or of the last round of halving that it reached.

    Attributes:
        number: Number of the trial; 0 is the default.
        score: The score.
        difference: How much higher it is than that of the default, over the items that both share.
    """

    number: int
    score: Score
    difference: Difference

    @property
    def method(self) -> MethodSpec:
        """Return the setting."""
        return self.score.method

    def row(self) -> dict[str, object]:
        """Return the trial as a plain row."""
        mean = self.score.summary
        return {
            "trial": self.number, "method": str(self.method), "mean": mean.mean, "low": mean.low, "high": mean.high,
            "n": len(self.score.values), "undefined": self.score.undefined, "difference": self.difference.mean,
            "difference_low": self.difference.low, "difference_high": self.difference.high, "seconds": self.score.seconds,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class TuneResult:
    """The result of a search.

    Attributes:
        spec: The search.
        space: The search space and how much of it was tried, in a sentence.
        trials: The trials, best first.
        default: Score of the default on the held-out items.
        winner: Score of the best setting of the search on the held-out items; the default's if no other was better.
        refused: The settings that are not defined, with the reason.
        notes: What was left out, and why.
        computed: Number of results that were computed.
        cached: Number of results that were in the store.
        seconds: Duration of the search.
    """

    spec: TuneSpec
    space: str
    trials: tuple[Trial, ...]
    default: Score
    winner: Score
    refused: Sequence[tuple[MethodSpec, str]] = ()
    notes: tuple[str, ...] = ()
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0

    @property
    def method(self) -> MethodSpec:
        """Return the best setting of the search."""
        return self.winner.method

    @property
    def difference(self) -> Difference:
        """Return how much higher the best setting scores than the default, over the held-out items where both are defined."""
        return paired(self.winner, self.default)

    @property
    def better(self) -> bool:
        """Return whether the best setting is significantly better than the default on the held-out items."""
        return not self.difference.tie and self.winner.sign * self.difference.mean > 0

    @property
    def finding(self) -> str:
        """Return the verdict in one or two sentences."""
        default, protocol, n = self.default.method, self.spec.protocol, self.difference.n
        if self.method == default:
            searched = len(self.trials[0].score.values)
            return (
                f"No other setting is better than the default {default} on the {searched} items of the search: keep the default. "
                f"On {n} held-out items its {protocol} is {_interval(self.default.summary)}."
            )
        verdict = "significantly better" if self.better else "not significantly better" if self.difference.tie else "significantly worse"
        return (
            f"On {n} held-out items {self.method}, the best of the search, is {verdict} than the default {default}: {protocol} is "
            f"{_interval(self.winner.summary)} instead of {_interval(self.default.summary)}, a paired difference of "
            f"{_interval(self.difference)}{'' if self.better else '; keep the default'}."
        )

    @property
    def recommended(self) -> MethodSpec:
        """Return the best setting if it is significantly better than the default, otherwise the default."""
        return self.winner.method if self.better else self.default.method

    @property
    def command(self) -> str:
        """Return a command that explains an image with the recommended setting; empty for a model that only Python can load."""
        wrapped = self.spec.model.architecture.startswith("wrapped:")
        return "" if wrapped else ExplainSpec(self.spec.model, "sample:cat", (self.recommended,)).cli()

    @property
    def snippet(self) -> str:
        """Return a line of Python that explains images with the recommended setting."""
        return f"attrlib.explain(model, images, {str(self.recommended)!r})"

    def table(self) -> list[dict[str, object]]:
        """Return one plain row for each trial, best first: mean, 95 % CI and counts, difference to the default, seconds of one map."""
        return [trial.row() for trial in self.trials]

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values. Numbers that are not finite become None."""
        difference = self.difference
        fields = {
            "cli": self.spec.cli(),
            "space": self.space,
            "higher_is_better": self.winner.protocol.higher_is_better,
            "trials": self.table(),
            "default": _held_out(self.default),
            "winner": _held_out(self.winner),
            "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high, "n": difference.n},
            "better": self.better,
            "finding": self.finding,
            "use": {"cli": self.command, "python": self.snippet},
            "refused": [{"method": str(method), "reason": reason} for method, reason in self.refused],
        }
        return json_value(fields | {name: getattr(self, name) for name in ("notes", "computed", "cached", "seconds")})


def _held_out(score: Score) -> dict[str, object]:
    mean = score.summary
    fields = {"method": str(score.method), "mean": mean.mean, "low": mean.low, "high": mean.high, "n": len(score.values)}
    return fields | {"undefined": score.undefined, "values": score.values.tolist(), "ids": score.ids}


def _interval(value: Summary | Difference) -> str:
    mean, low, high = (number(each, DECIMALS) for each in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"
