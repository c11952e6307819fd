"""A leaderboard: one row per method, best first, with its interval drawn; the same during a run and after it."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from attrlib.analysis.paper_values import SOURCE
from attrlib.figures.charts import ACCENT, GREY, Scale
from attrlib.figures.numbers import number, spans_decades
from attrlib.figures.tables import ranks
from attrlib.statistics import Summary

WIDTH, HEIGHT = 170, 28
ROW, MOST = 36, 12
SMALL = 0.001
"""Magnitude of a mean below which four decimals show too few digits."""


def live_rows(scores: Mapping[tuple[str, str], Summary], protocol: str, higher_is_better: bool) -> list[dict[str, Any]]:
    """Return rows from a run's scores so far, without ranks (which need all pairs) and seconds."""
    own = {method: found for (name, method), found in scores.items() if name == protocol}
    sign = -1 if higher_is_better else 1
    ordered = sorted(own.items(), key=lambda pair: sign * pair[1].mean if pair[1].n else math.inf)
    return [
        {"method": method, "mean": s.mean, "low": s.low, "high": s.high, "n": s.n + s.undefined, "undefined": s.undefined}
        for method, s in ordered
    ]


def show(
    rows: Sequence[Mapping[str, Any]], scale: Scale, alt: str, key: str | None = None, on_select: Callable[[], None] | None = None
) -> None:
    """Show the table. With `key` a row can be selected, and `on_select` is called when one is."""
    frame = _frame(rows, scale)
    # Tables that differ only in their rows have the same height, so that the layout stays stable.
    look: dict[str, Any] = dict(
        column_config=_columns(scale, rows),
        hide_index=True,
        height="content" if len(rows) <= MOST else ROW * MOST,
        row_height=ROW,
        placeholder="–",
        alt=alt,
    )
    if key is None or on_select is None:
        st.dataframe(frame, **look)
    else:
        st.dataframe(frame, key=key, on_select=on_select, selection_mode=("single-row", "single-cell"), **look)


def chosen(key: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the method of the selected row or cell in the table of that key."""
    selection = st.session_state.get(key, {}).get("selection", {})
    places = [*selection.get("rows", []), *(row for row, _column in selection.get("cells", []))]
    return rows[places[-1]]["method"] if places and places[-1] < len(rows) else None


def _frame(rows: Sequence[Mapping[str, Any]], scale: Scale) -> dict[str, list[Any]]:
    ends = [v for row in rows for v in (row["low"], row["mean"], row["high"]) if math.isfinite(v)]
    ends += [] if scale.chance is None else [scale.chance]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    # Means that span decades are distinguishable only on a logarithmic scale, so the intervals are drawn on one, too.
    logarithmic = scale.chance is None and spans_decades(row["mean"] for row in rows)
    if logarithmic:
        ends = [value for value in ends if value > 0]
        low, high = math.log10(min(ends)), math.log10(max(ends))
    margin = 0.06 * (high - low) or 0.5
    return {
        "rank": [ranks(row["first"], row["last"]) if "first" in row else None for row in rows],
        "method": [row["method"] for row in rows],
        "mean": [row["mean"] for row in rows],
        "bar": [_bar(row, scale.chance, low - margin, high + margin, logarithmic) for row in rows],
        "interval": [_interval(row["low"], row["high"]) for row in rows],
        **({"paper": [row["paper"] for row in rows]} if rows and "paper" in rows[0] else {}),
        "n": [row["n"] for row in rows],
        "undefined": [row["undefined"] for row in rows],
        "seconds": [row.get("seconds") for row in rows],
    }


def _interval(low: float, high: float) -> str | None:
    return None if math.isnan(low) else f"{number(low)} to {number(high)}"


def _columns(scale: Scale, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    arrow = "↑" if scale.higher_is_better else "↓"
    dashed = "" if scale.chance is None else f" The dashed line is chance, {scale.chance:.3g}."
    small = any(0 < abs(row["mean"]) < SMALL for row in rows)
    c = st.column_config
    return {
        "rank": c.TextColumn(
            "Rank", width=50, help="The ranks that the data allow: with 95 % probability all are right at once. A range is a tie."
        ),
        "method": c.TextColumn("Method", width=135, pinned=True),
        "mean": c.NumberColumn(
            f"Mean {arrow}", format="%.2e" if small else "%.4f", width=72, help=f"Mean over the items. {scale.direction}"
        ),
        "bar": c.ImageColumn("95 % interval", width=WIDTH, help=f"Of the mean, Student's t.{dashed}"),
        "interval": c.TextColumn("from – to", width=125),
        "n": c.NumberColumn("Items", width=55),
        "undefined": c.NumberColumn("Undefined", width=80, help="Items on which the score is not defined, as on a constant map."),
        "seconds": c.NumberColumn("s / map", format="%.3g", width=70, help="Seconds of one map on this device."),
        "paper": c.NumberColumn("Paper", format="%.3g", width=65, help=f"What the paper reports in this setting: {SOURCE}."),
    }


def _bar(row: Mapping[str, Any], chance: float | None, low: float, high: float, logarithmic: bool) -> str | None:
    """Return a picture of the interval on a scale that all rows share, linear or logarithmic."""
    if math.isnan(row["mean"]):
        return None

    def x(value: float) -> float:
        place = (math.log10(value) if value > 0 else low) if logarithmic else value
        return round((place - low) / (high - low) * WIDTH, 1)

    parts = []
    if chance is not None:
        parts.append(f'<path d="M{x(chance)} 0V{HEIGHT}" stroke="{GREY}" stroke-width="1.5" stroke-dasharray="4 3"/>')
    if math.isfinite(row["low"]):
        parts.append(f'<path d="M{x(row["low"])} {HEIGHT / 2}H{x(row["high"])}" stroke="{ACCENT}" stroke-width="5" stroke-opacity=".45"/>')
    parts.append(f'<circle cx="{x(row["mean"])}" cy="{HEIGHT / 2}" r="5" fill="{ACCENT}"/>')
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
