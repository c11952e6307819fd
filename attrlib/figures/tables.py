"""Tables of scores for download as CSV and LaTeX, from rows of plain values."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

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


def latex_table(rows: Sequence[Row], captions: Mapping[str, str]) -> str:
    """Return one LaTeX table (booktabs) for each protocol.

    With several models, the table has models across and shows the mean and half the width of its interval. With one model, it shows
    mean, interval and ranks.

    Args:
        rows: One row for each model, protocol and method.
        captions: Captions by protocol. Each table appends the number of items that its means are over.
    """
    tables = [_tabular([row for row in rows if row["protocol"] == protocol], caption) for protocol, caption in captions.items()]
    return "\n\n".join(tables) + "\n"


def counted(rows: Sequence[Row]) -> str:
    """Return the number of items that the rows are over, such as `12 items`, or the range from fewest to most."""
    counts = sorted({int(str(row["n"])) for row in rows})
    return f"{'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} items"


def _tabular(rows: Sequence[Row], caption: str) -> str:
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    if len(models) == 1:
        head = ["Method", "Mean", r"95\,\% CI", "Rank", "$n$"]
        body = [
            [escape(str(r["method"])), _number(r["mean"]), f"[{_number(r['low'])}, {_number(r['high'])}]", _ranks(r), str(r["n"])]
            for r in rows
        ]
    else:
        by_model = {(str(row["model"]), str(row["method"])): row for row in rows}
        head = ["Method", *map(escape, models)]
        methods = dict.fromkeys(str(row["method"]) for row in rows)
        body = [[escape(method), *(_mean(by_model.get((model, method))) for model in models)] for method in methods]
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
    """Format the ranks that a method may hold: one number, or first and last rank of a tie."""
    return str(first) if first == last else f"{first}–{last}"


def _ranks(row: Row) -> str:
    return ranks(row["first"], row["last"]).replace("–", "--")


def _mean(row: Row | None) -> str:
    """Format the mean and half the width of its interval."""
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
    """Escape LaTeX's special characters."""
    return "".join(_SPECIAL.get(c, c) for c in text)
