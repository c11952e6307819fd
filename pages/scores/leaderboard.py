"""A leaderboard: one row per method, best first, with its interval drawn; the same during a run and after it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from attrlib.analysis.paper_values import SOURCE
from attrlib.figures.charts import Scale
from attrlib.figures.interval_bars import WIDTH, interval_bars
from attrlib.figures.leaderboard import LeaderboardRow, has_paper
from attrlib.figures.numbers import number

ROW, MOST = 36, 12
SMALL = 0.001
"""Magnitude of a mean below which four decimals show too few digits."""


@dataclass(frozen=True)
class Column:
    """A column of the table: its value in each row, and how Streamlit shows it."""

    values: list[Any]
    config: Any


def show(
    rows: Sequence[LeaderboardRow], scale: Scale, alt: str, key: str | None = None, on_select: Callable[[], None] | None = None
) -> None:
    """Show the table. With `key` a row can be selected, and `on_select` is called when one is."""
    columns = _columns(rows, scale)
    frame = {name: column.values for name, column in columns.items()}
    # Tables that differ only in their rows have the same height, so that the layout stays stable.
    look: dict[str, Any] = dict(
        column_config={name: column.config for name, column in columns.items()},
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


def chosen(key: str, rows: Sequence[LeaderboardRow]) -> str | None:
    """Return the method of the selected row or cell in the table of that key."""
    selection = st.session_state.get(key, {}).get("selection", {})
    places = [*selection.get("rows", []), *(row for row, _column in selection.get("cells", []))]
    return rows[places[-1]].method if places and places[-1] < len(rows) else None


def _columns(rows: Sequence[LeaderboardRow], scale: Scale) -> dict[str, Column]:
    """Return the columns in their order on the page."""
    c = st.column_config
    arrow = "↑" if scale.higher_is_better else "↓"
    dashed = "" if scale.chance is None else f" The dashed line is chance, {scale.chance:.3g}."
    small = any(0 < abs(row.mean) < SMALL for row in rows)
    columns = {
        "rank": Column(
            [row.ranks for row in rows],
            c.TextColumn(
                "Rank",
                width=50,
                help="The ranks that the data support, with 95 % simultaneous confidence. Methods with overlapping ranges are tied.",
            ),
        ),
        "method": Column([row.method for row in rows], c.TextColumn("Method", width=135, pinned=True)),
        "mean": Column(
            [row.mean for row in rows],
            c.NumberColumn(f"Mean {arrow}", format="%.2e" if small else "%.4f", width=72, help=f"Mean over the items. {scale.direction}"),
        ),
        "bar": Column(interval_bars(rows), c.ImageColumn("95 % CI", width=WIDTH, help=f"Of the mean, by Student's t.{dashed}")),
        "interval": Column([_interval(row) for row in rows], c.TextColumn("Low – high", width=125)),
        "paper": Column(
            [row.paper for row in rows],
            c.NumberColumn("Paper", format="%.3g", width=65, help=f"Value reported by the paper in this setting: {SOURCE}."),
        ),
        "n": Column([row.n for row in rows], c.NumberColumn("Items", width=55)),
        "undefined": Column(
            [row.undefined for row in rows],
            c.NumberColumn("Undefined", width=80, help="Items for which the score is undefined, for example because the map is constant."),
        ),
        "seconds": Column(
            [None if math.isnan(row.seconds) else row.seconds for row in rows],
            c.NumberColumn("s / map", format="%.3g", width=70, help="Seconds per map on this device."),
        ),
    }
    return columns if has_paper(rows) else {name: column for name, column in columns.items() if name != "paper"}


def _interval(row: LeaderboardRow) -> str | None:
    return None if math.isnan(row.low) else f"{number(row.low)} to {number(row.high)}"
