"""The plots of a run, and what a click on one of them selects."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from attrlib.analysis.agreement import Pair
from attrlib.analysis.funnybirds import CORNERS, LEGEND, NAMES
from attrlib.figures import charts
from attrlib.figures.star import stars
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Correlation
from pages.shared.plots import camera
from pages.shared.run_jobs import Finished

STARS, INTERVALS, BOX, VIOLIN, DIFFERENCES, COST = "Stars", "Intervals", "Box", "Violin", "Differences", "Cost"
MODELS, AGREEMENT, ITEMS = "Models", "Agreement on methods", "Agreement on items"
WORDS = {
    STARS: "The dimensions of each method, from 0 in the middle to 1 at the rim. The number is the mean of completeness (Com), correctness "
    "(Cor) and contrastivity (Con). Accuracy (A) and background independence (BI) are the model's. As in the paper, each is a mean over the "
    "images where it is defined, with the threshold that suits the method best; the table on top averages over the thresholds. The values are "
    "of this model and data: the paper's are for its own data.",
    INTERVALS: "Mean over the items with its 95 % CI. Methods whose intervals overlap may still differ significantly: see Differences.",
    BOX: "The values of single items: median, quartiles and, if there are few, every item. Click a point to see its image.",
    VIOLIN: "The distribution of the values of single items. Click a point to see its image.",
    DIFFERENCES: "Difference of each method to the best one on the same items, with its 95 % bootstrap CI. Hollow points are tied with the best.",
    COST: "Mean against seconds per map. The line connects the Pareto-optimal methods.",
    MODELS: "The mean of each method on each model. Click a cell to see its example images.",
    AGREEMENT: "Do protocols rank the methods alike? Spearman correlation of their means, with a 95 % bootstrap CI over the items. "
    "1: the same order; 0: no relation; negative: the reverse order.",
    ITEMS: "Do protocols score the same images high? Spearman correlation of the values of single items, mean over the methods, with a "
    "95 % bootstrap CI. Not defined between images and grids, which have no items in common.",
}
AGREEING = (AGREEMENT, ITEMS)
FORMATS = ("PNG", "SVG")


def scale_of(spec: ProtocolSpec) -> charts.Scale:
    """Return how the numbers of a protocol are read."""
    protocol = create(spec)
    return charts.Scale(label_of(spec), protocol.higher_is_better, protocol.chance_level)


def label_of(spec: ProtocolSpec) -> str:
    """Return the protocol's title, with the parameters that are not at their default."""
    changed = ", ".join(f"{name} {value}" for name, value in spec.params)
    return create(spec).title + (f" ({changed})" if changed else "")


def lines_of(finished: Finished, protocol: ProtocolSpec) -> list[charts.Line]:
    """Return the methods under a protocol, best first."""
    scores = {str(method): score for method, score in finished.result.of_protocol(protocol).items()}
    ranked = [(row.method, scores[row.method]) for row in finished.leaderboards.get(protocol, ())]
    return [charts.Line(name, score.summary, score.counted, score.seconds) for name, score in ranked]


def means_of(done: Mapping[str, Finished], protocol: ProtocolSpec) -> dict[tuple[str, str], float]:
    """Return the means by model and method."""
    return {(model, row.method): row.mean for model, finished in done.items() for row in finished.leaderboards.get(protocol, ())}


def correlations_of(finished: Finished, view: str) -> dict[Pair, Correlation]:
    """Return what the plots of agreement show: the correlation of each pair of protocols over methods, or over items."""
    pairs = finished.agreement.items()
    return {pair: agreement.over_items if view == ITEMS else agreement.over_methods for pair, agreement in pairs}


def figure_of(view: str, finished: Finished, protocol: ProtocolSpec, done: Mapping[str, Finished]) -> go.Figure:
    """Return one of the plots."""
    lines, scale = lines_of(finished, protocol), scale_of(protocol)
    if view == STARS:
        return stars({str(method): own.means for method, own in finished.dimensions[protocol].items()}, CORNERS, "Mean", NAMES)
    if view in (BOX, VIOLIN):
        return charts.distributions(lines, scale, view.lower())
    if view == DIFFERENCES:
        return charts.differences(finished.differences.get(protocol, {}), lines[0].name, scale)
    if view == COST:
        return charts.pareto(lines, scale)
    if view == MODELS:
        return charts.heat_map(means_of(done, protocol), scale)
    if view in AGREEING:
        return charts.agreement({(label_of(a), label_of(b)): value for (a, b), value in correlations_of(finished, view).items()})
    return charts.intervals(lines, scale)


def views_of(finished: Finished, protocol: ProtocolSpec, done: Mapping[str, Finished]) -> list[str]:
    """Return the plots that are informative here: differences need two methods, the heat map two models, agreement two protocols."""
    lines = lines_of(finished, protocol)
    several = [DIFFERENCES] if len(lines) > 1 else []
    timed = [COST] if any(line.seconds > 0 for line in lines) else []
    agreeing = [view for view in AGREEING if any(value.n for value in correlations_of(finished, view).values())]
    stars_first = [STARS] if protocol in finished.dimensions else []
    return [*stars_first, INTERVALS, BOX, VIOLIN, *several, *timed, *([MODELS] if len(done) > 1 else []), *agreeing]


def show(finished: Finished, protocol: ProtocolSpec, done: Mapping[str, Finished]) -> None:
    """Show the chosen plot, with the chooser above it and an explanation below."""
    views = views_of(finished, protocol, done)
    state = st.session_state
    if state.get("s_view") not in views:
        state.s_view = views[0]
    st.selectbox(
        "Plot", views, key="s_view", persist_state="session", help="The camera icon saves the plot; choose the format under Export."
    )
    view = state.s_view
    figure = figure_of(view, finished, protocol, done)
    key = f"s_plot_{view}_{protocol}_{finished.run_key}"
    st.plotly_chart(
        figure,
        key=key,
        on_select=lambda: pick(st.session_state.get(key, {}).get("selection", {}).get("points", [])),
        selection_mode="points",
        config=camera(view.lower().replace(" ", "-"), state.get("s_format", FORMATS[0])),
        alt=f"{view} of {label_of(protocol)}. {WORDS[view]} The same numbers are in the table {'below' if view == STARS else 'above'}.",
    )
    st.caption(WORDS[view])
    if view == STARS:
        _dimensions(finished, protocol)


def dimension_columns(finished: Finished, protocol: ProtocolSpec) -> dict[str, list[Any]]:
    """Return the table of the dimensions of each method, by column."""
    methods = finished.dimensions[protocol]
    values = {name: [own.means[name] for own in methods.values()] for name in NAMES}
    return {"Method": [str(method) for method in methods]} | values | {"t": [own.threshold for own in methods.values()]}


def _dimensions(finished: Finished, protocol: ProtocolSpec) -> None:
    c = st.column_config
    config: dict[str, Any] = {
        name: c.NumberColumn(name, format="%.2f", width=58, help=f"{text.capitalize()}.") for name, text in NAMES.items()
    }
    config |= {
        "Method": c.TextColumn(width=120, pinned=True),
        "t": c.NumberColumn(format="%.3f", width=62, help="Threshold of the method."),
    }
    st.dataframe(
        dimension_columns(finished, protocol), column_config=config, hide_index=True, placeholder="–", alt=f"Dimensions of each method: {LEGEND}"
    )  # fmt: skip


def pick(points: Sequence[Mapping[str, Any]]) -> None:
    """Apply a click: select a method, and with it an item or a model."""
    state = st.session_state
    if not points or "customdata" not in points[-1]:
        return
    method, *more = points[-1]["customdata"]
    state.s_method, state.s_item = method, None
    if more and isinstance(more[0], str):
        state.s_model = more[0]
    elif more:
        state.s_item = int(more[0])
