"""Tables of scores to take away: CSV and LaTeX, from rows of plain values."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from attrlib.figures.numbers import number

Row = Mapping[str, object]
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def csv_table(rows: Sequence[Row]) -> bytes:
    """One line for each row, the names of its values on top; what is not finite is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue().encode()


def _cell(value: object) -> object:
    return ("" if not math.isfinite(value) else repr(value)) if isinstance(value, float) else value


def latex_table(rows: Sequence[Row], captions: Mapping[str, str]) -> str:
    """A table for the package booktabs: models across where there are several, else mean, interval and ranks; one for each protocol.

    `captions` are those of the protocols; each table adds how many items its means are over. The interval is given as half its width.
    """
    tables = [_tabular([row for row in rows if row["protocol"] == protocol], caption) for protocol, caption in captions.items()]
    return "\n\n".join(tables) + "\n"


def counted(rows: Sequence[Row]) -> str:
    """How many items these rows are over: `12 items`, or from the fewest to the most."""
    counts = sorted({int(str(row["n"])) for row in rows})
    return f"{'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} items"


def _tabular(rows: Sequence[Row], caption: str) -> str:
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    if len(models) == 1:
        head = ["Method", "Mean", r"95\,\% interval", "Rank", "$n$"]
        body = [
            [escape(str(r["method"])), _number(r["mean"]), f"[{_number(r['low'])}, {_number(r['high'])}]", _ranks(r), str(r["n"])]
            for r in rows
        ]
    else:
        known = {(str(row["model"]), str(row["method"])): row for row in rows}
        head = ["Method", *map(escape, models)]
        methods = dict.fromkeys(str(row["method"]) for row in rows)
        body = [[escape(method), *(_mean(known.get((model, method))) for model in models)] for method in methods]
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


def ranks(first: object, last: object) -> str:
    """The ranks that a method may hold: one number, or the ends of a tie."""
    return str(first) if first == last else f"{first}–{last}"


def _ranks(row: Row) -> str:
    return ranks(row["first"], row["last"]).replace("–", "--")


def _mean(row: Row | None) -> str:
    """Mean and half the width of its interval."""
    if row is None:
        return "--"
    half = (row["high"] - row["low"]) / 2  # type: ignore[operator]
    return _number(row["mean"]) + (f" $\\pm$ {_number(half)}" if math.isfinite(half) else "")


def _number(value: object) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return "--"
    digits, _, power = number(value).partition("e")
    return f"${digits}\\times 10^{{{int(power)}}}$" if power else f"${digits}$"


def escape(text: str) -> str:
    """Text as LaTeX sets it."""
    return "".join(_SPECIAL.get(c, c) for c in text)
