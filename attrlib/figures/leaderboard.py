"""Rows of a leaderboard: what the page, the command line, tables and exports show of each method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """The score of a method under a protocol.

    Attributes:
        protocol: The protocol in text form.
        method: The method in text form.
        mean: Mean over the items, NaN if none is defined.
        low: Lower end of the mean's 95 % CI, NaN if undefined.
        high: Upper end of the mean's 95 % CI, NaN if undefined.
        first: Best rank that the data allow, None during a run.
        last: Worst rank that the data allow, None during a run. It differs from `first` in a tie.
        n: Number of items, including undefined ones.
        undefined: Number of items whose score is undefined.
        seconds: Mean seconds of one map, NaN if unknown.
        paper: Mean that the paper reports in this setting, NaN if it reports none.
        chance: Score of a map without information, None if the protocol has no such level.
    """

    protocol: str
    method: str
    mean: float
    low: float
    high: float
    first: int | None = None
    last: int | None = None
    n: int
    undefined: int
    seconds: float = math.nan
    paper: float = math.nan
    chance: float | None = None

    @property
    def ranks(self) -> str | None:
        """Return the ranks that the method may hold: one number, or first and last rank of a tie; None during a run."""
        return None if self.first is None else str(self.first) if self.first == self.last else f"{self.first}–{self.last}"

    def values(self, with_paper: bool = False) -> dict[str, object]:
        """Return the row's values by name, without the chance level, which is the protocol's.

        Args:
            with_paper: Whether to include the paper's value.
        """
        left_out = {"chance"} if with_paper else {"chance", "paper"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


Leaderboards = Mapping[str, Sequence[LeaderboardRow]]
"""Rows of all protocols by model."""


def has_paper(rows: Sequence[LeaderboardRow]) -> bool:
    """Return whether the paper reports a value for any of the rows."""
    return any(not math.isnan(row.paper) for row in rows)


def counted(rows: Sequence[LeaderboardRow]) -> str:
    """Return the number of items that the rows are over, such as `12 items`, or the range from fewest to most."""
    counts = sorted({row.n for row in rows})
    return f"{'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} items"


def plain_rows(boards: Leaderboards) -> list[dict[str, object]]:
    """Return the rows of several models as plain values for CSV and JSON, each with its model.

    Args:
        boards: Rows by model.

    Returns:
        Rows with the same columns, among them `paper` if the paper reports a value for any.
    """
    with_paper = has_paper([row for rows in boards.values() for row in rows])
    return [{"model": model} | row.values(with_paper) for model, rows in boards.items() for row in rows]
