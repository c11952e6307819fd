"""Results of runs: a growing leaderboard while they are in progress, and the full results when they are done."""

from collections.abc import Mapping, Sequence

import streamlit as st

from attrlib.analysis.leaderboard import live_leaderboard
from attrlib.engine.jobs import Job, State
from attrlib.engine.results import Score
from attrlib.engine.run import Event
from attrlib.figures import charts
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec, RunSpec
from attrlib.studies import STUDIES
from attrlib.studies.trust import recommend, shipped
from pages.scores import examples, leaderboard, plots
from pages.shared import pickers, run_panel
from pages.shared.jobs import plain
from pages.shared.plots import camera
from pages.shared.run_jobs import Finished
from pages.shared.times import duration
from pages.shared.widget_values import chooser


def show_live(jobs: Mapping[str, Job], specs: Mapping[str, RunSpec]) -> None:
    """Show the leaderboard of the run in progress and, with several models, the heat map as it fills."""
    protocols = next(iter(specs.values())).protocols
    protocol = choose_protocol(protocols)
    scale = plots.scale_of(protocol)
    so_far = {name: _so_far(job, protocol) for name, job in jobs.items()}
    name = next((n for n, j in jobs.items() if j.state is State.RUNNING and so_far[n]), next((n for n in jobs if so_far[n]), None))
    if name is None:
        st.caption("The first results will appear here shortly.")
        return
    st.caption(f"**{plain(name)}**, results so far. {plain(create(protocol).reading)}")
    leaderboard.show(so_far[name], scale, f"Scores of {name} so far, best first")
    if len(jobs) > 1:
        means = {(n, row.method): row.mean for n, rows in so_far.items() for row in rows}
        # Models without results keep their column.
        means |= {(n, str(m)): means.get((n, str(m)), float("nan")) for n in jobs for m in specs[n].methods}
        st.plotly_chart(charts.heat_map(means, scale), key="s_live", config=camera("means-so-far"), alt="Means by model and method so far")


def _so_far(job: Job, protocol: ProtocolSpec) -> Sequence[LeaderboardRow]:
    if isinstance(job.result, Finished):
        return job.result.leaderboards.get(protocol, ())
    event: Event = job.news or Event("waiting")
    return live_leaderboard(event.scores, protocol)


def choose_protocol(protocols: Sequence[ProtocolSpec]) -> ProtocolSpec:
    """Return the protocol to show, with a chooser if there are several."""
    names = {str(p): p for p in protocols}
    if st.session_state.get("s_protocol") not in names:
        st.session_state.s_protocol = next(iter(names))
    if len(names) > 1:
        pickers.switch("Protocol", {name: plots.label_of(p) for name, p in names.items()}, "s_protocol", label_visibility="collapsed")
    return names[st.session_state.s_protocol]


def show(done: Mapping[str, Finished]) -> bool:
    """Show which protocols to trust, leaderboard, plots and example images; return whether any picture is pending."""
    state = st.session_state
    advice = st.container()
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if state.get("s_model") not in done:
            state.s_model = next(iter(done))
        if len(done) > 1:
            st.selectbox("Model", label_visibility="collapsed", width=260, **chooser("s_model", list(done)))
        finished = done[state.s_model]
        protocol = choose_protocol(finished.result.protocols)
    with advice:
        _show_trust(finished)
    definition = create(protocol)
    scale = plots.scale_of(protocol)
    rows = finished.leaderboards[protocol]
    arrow = "↑ higher is better" if definition.higher_is_better else "↓ lower is better"
    chance = "" if scale.chance is None else f" · chance {scale.chance:.3g}"
    st.markdown(f"##### {plain(scale.title)} on {plain(state.s_model)}")
    st.caption(f"{arrow}{chance} · {plain(definition.reading)} [{plain(definition.paper.authors)}]({definition.paper.url})")
    key = f"s_board_{protocol}_{finished.run_key}"
    leaderboard.show(rows, scale, f"{scale.title} on {state.s_model}, best first", key, lambda: _pick_row(key, rows))
    _notes(finished)
    methods = [row.method for row in rows]
    if state.get("s_method") not in methods:
        state.s_method, state.s_item = methods[0], None
    grid = st.grid(min_column_width=430, gap="medium", key="results")
    with grid.cell():
        plots.show(finished, protocol, done)
    with grid.cell():
        st.selectbox(
            "Example images for", help="You can also click a row of the table or a point of the plot.",
            **chooser("s_method", methods, _forget_item),
        )  # fmt: skip
        score: Score | None = finished.score(str(protocol), state.s_method)
        return score is not None and examples.show(finished, score, state.get("s_item"))


def _show_trust(finished: Finished) -> None:
    """Show which of the run's protocols to trust on this kind of model, where the study `meta` tells."""
    if finished.kind is None:
        return
    advice = recommend(finished.kind, finished.result.protocols, finished.data.name, shipped(), plots.label_of)
    if advice is not None:
        st.info(f"{plain(advice.words)} Page Studies, *{plain(STUDIES['meta'].title)}*, has the details.", icon=":material/verified:")


def _pick_row(key: str, rows: Sequence[LeaderboardRow]) -> None:
    method = leaderboard.chosen(key, rows)
    if method is not None:
        st.session_state.s_method, st.session_state.s_item = method, None


def _forget_item() -> None:
    st.session_state.s_item = None


def _notes(finished: Finished) -> None:
    result = finished.result
    st.caption(f"{result.computed} results computed, {result.cached} cached, {duration(result.seconds)}.")
    agreement = [f"{plain(str(m))} {value:.3f}" for m, value in result.agreement.items()]
    if agreement:
        st.caption(f"Rank correlation of fast and exact maps: {', '.join(agreement)}.")
    run_panel.show_remarks([result])
