"""Tables for download: plain rows as CSV, leaderboards as LaTeX."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from attrlib.figures.leaderboard import LeaderboardRow, Leaderboards, counted
from attrlib.figures.numbers import number

Row = Mapping[str, object]
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def csv_table(rows: Sequence[Row]) -> bytes:
    """Return the rows as CSV with a header line. Values that are not finite are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue().encode()


def _cell(value: object) -> object:
    return ("" if not math.isfinite(value) else repr(value)) if isinstance(value, float) else value


def latex_table(boards: Leaderboards, captions: Mapping[str, str]) -> str:
    """Return one LaTeX table (booktabs) for each protocol.

    With several models, the table has models across and shows the mean and half the width of its interval. With one model, it shows
    mean, interval and ranks.

    Args:
        boards: Rows by model.
        captions: Captions by protocol. Each table appends the number of items that its means are over.
    """
    tables = []
    for protocol, caption in captions.items():
        rows = {model: [row for row in board if row.protocol == protocol] for model, board in boards.items()}
        tables.append(_tabular({model: board for model, board in rows.items() if board}, caption))
    return "\n\n".join(tables) + "\n"


def _tabular(boards: Leaderboards, caption: str) -> str:
    rows = [row for board in boards.values() for row in board]
    if len(boards) == 1:
        head = ["Method", "Mean", r"95\,\% CI", "Rank", "$n$"]
        body = [
            [escape(r.method), _number(r.mean), f"[{_number(r.low)}, {_number(r.high)}]", (r.ranks or "").replace("–", "--"), str(r.n)]
            for r in rows
        ]
    else:
        head = ["Method", *map(escape, boards)]
        by_method = {model: {row.method: row for row in board} for model, board in boards.items()}
        methods = dict.fromkeys(row.method for row in rows)
        body = [[escape(method), *(_mean(board.get(method)) for board in by_method.values())] for method in methods]
    lines = [" & ".join(cells) + r" \\" for cells in (head, *body)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{escape(caption)} Mean over {counted(rows).replace('–', '--')}.}}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _mean(row: LeaderboardRow | None) -> str:
    """Format the mean and half the width of its interval."""
    if row is None:
        return "--"
    half = (row.high - row.low) / 2
    return _number(row.mean) + (f" $\\pm$ {_number(half)}" if math.isfinite(half) else "")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "--"
    digits, _, power = number(value).partition("e")
    return f"${digits}\\times 10^{{{int(power)}}}$" if power else f"${digits}$"


def escape(text: str) -> str:
    """Escape LaTeX's special characters."""
    return "".join(_SPECIAL.get(c, c) for c in text)
