"""Retraining (ROAR and KAR) of the chosen methods, as a job of the device's queue: its controls, cost, progress and curves."""

import time

import streamlit as st

from attrlib.data.datasets import anchored
from attrlib.engine.jobs import Job, Priority, State
from attrlib.engine.run import Event
from attrlib.errors import AttrlibError
from attrlib.figures.study_plots import draw
from attrlib.models import EMBEDDED
from attrlib.progress import NewsProgress
from attrlib.retraining import RoarPlan, RoarResult, plan_roar, run_roar
from attrlib.retraining.pool import workers_of_environment
from attrlib.retraining.result import PAPER, READINGS, TITLES, files_of, interval
from attrlib.specs import ModelSpec, RoarSpec, digest, options_of
from attrlib.specs.roar import SHARES, parse_shares, write_shares
from attrlib.store import open_store
from pages.scores import choice
from pages.shared import downloads, forms, job_panel, job_status, jobs, notices, reproduce
from pages.shared.jobs import plain
from pages.shared.plots import camera
from pages.shared.polling import poll
from pages.shared.roots import check_model, load_data
from pages.shared.times import duration, size
from pages.shared.widget_values import chooser, widget

OPTIONS = {option.name: option for option in options_of(RoarSpec)}
SHOWN = ("keep", "seeds", "limit", "size")
"""Options with a place in the section; all others are listed under More."""
FRESH = 30
"""Seconds for which an estimate of the cost is shown before the store is looked at again."""


def show(wanted: choice.Wanted) -> None:
    """Show the switch of the section, and the section if it is on."""
    st.toggle(
        "Retrain networks without the relevant pixels (ROAR)",
        key="r_open",
        persist_state="session",
        help="Trains small networks on images in which the most relevant pixels are replaced: the accuracy that is left tells what the method has "
        "missed. It takes minutes, and the result of every training is kept.",
    )
    if not st.session_state.r_open:
        return
    state = st.session_state
    if "r_seed" not in state:
        forms.fill(OPTIONS.values(), RoarSpec(ModelSpec(EMBEDDED), "", ()), "r_")
        state.r_shares = write_shares(SHARES)
    st.caption(f"The methods, the model and the data are those chosen above. [{plain(PAPER.authors)}: {plain(PAPER.title)}]({PAPER.url})")
    _controls(wanted)
    try:
        spec = _spec(wanted)
    except AttrlibError as error:
        notices.error(error)
        return
    if spec is not None:
        poll("r_waits", lambda: _body(spec))


def _controls(wanted: choice.Wanted) -> None:
    state = st.session_state
    with st.grid(min_column_width=130, gap="small", vertical_alignment="bottom", key="r_controls") as row:
        if len(wanted.models) > 1:
            names = [model.text for model in wanted.models]
            if state.get("r_model") not in names:
                state.r_model = names[0]
            with row.cell():
                st.selectbox("Model to retrain for", **chooser("r_model", names))
        with row.cell():
            st.text_input("Shares of pixels", help="Between 0 and 1, separated by commas.", **widget("r_shares"))
        for name in SHOWN:
            with row.cell():
                forms.option_input(OPTIONS[name], f"r_{name}")
        with row.cell(), st.popover("More", icon=":material/more_horiz:", width="stretch"):
            for name, option in OPTIONS.items():
                if name not in SHOWN:
                    forms.option_input(option, f"r_{name}")


def _spec(wanted: choice.Wanted) -> RoarSpec | None:
    """Return what the controls describe; None without a model, methods or data. Raises `SpecError` for invalid values."""
    run, state = wanted.run, st.session_state
    if not (wanted.models and run.methods and run.data):
        st.info("Choose a model, methods and data above.", icon=":material/arrow_upward:")
        return None
    named = {model.text: model for model in wanted.models}
    model = named.get(state.get("r_model", ""), wanted.models[0])
    return RoarSpec(model, anchored(run.data), run.methods, shares=parse_shares(state.r_shares), **forms.values(OPTIONS.values(), "r_"))


def _body(spec: RoarSpec) -> bool:
    """Show the button, the cost, the progress or the curves; return whether anything is pending."""
    job = jobs.device_queue().find(_key(spec))
    result = job.result if job is not None and job.state is State.DONE else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="r_bar"):
        job_panel.show_button("r", [job], lambda: _start(spec), job_panel.Labels(start="Retrain"))
        with st.popover("Reproduce", icon=":material/link:"):
            reproduce.command_line(spec.cli(), "Command line; with --out FOLDER it writes table, values and figure")
            reproduce.python(spec.snippet())
        if result is not None:
            with st.popover("Export", icon=":material/download:"):
                for name, make in files_of(result).items():
                    downloads.button(name, make, name, width="stretch")
    if result is not None:
        _show(result)
        return False
    return _show_cost(spec) if job is None else _show_state(job)


def _key(spec: RoarSpec) -> str:
    return digest("roar", spec, jobs.stamp(spec.model))


def _plan(spec: RoarSpec, on_progress: NewsProgress) -> RoarPlan:
    check_model(ModelSpec(spec.net))
    model = jobs.result_of(jobs.model_job(spec.model), on_progress)
    return plan_roar(spec, model, load_data(spec.data), open_store(), on_progress=on_progress)


def _start(spec: RoarSpec) -> None:
    def train(on_progress: NewsProgress) -> RoarResult:
        return run_roar(_plan(spec, on_progress), lambda event: on_progress(event.done, event.total, event), workers_of_environment())

    jobs.restart(jobs.device_queue(), _key(spec), train, Priority.LONG)


def _show_cost(spec: RoarSpec) -> bool:
    """Show how many trainings are missing and how long they take; return whether that is still being estimated."""

    def estimate(on_progress: NewsProgress) -> str:
        plan = _plan(spec, on_progress)
        cost = plan.estimate(workers_of_environment())
        refused = "".join(f" {method} is left out: {reason}." for method, reason in plan.refused)
        if not plan.missing:
            return f"The results of all {len(plan.cached)} trainings are cached."
        images = f"{len(plan.train)} images, tested on {len(plan.test)}"
        return (
            f"{len(plan.missing)} trainings on {images}, are missing, {len(plan.cached)} are cached: at most {duration(cost.seconds)}, "
            f"{size(cost.nbytes)} of memory.{refused}"
        )

    job = jobs.device_queue().submit(digest("roar plan", _key(spec), int(time.time() / FRESH)), estimate, jobs.PATIENCE)
    if not job.ended:
        job_status.pending("Estimating the cost …")
        return True
    job_status.show_failure(job)
    if job.result is not None:
        st.info(
            f"Press **Retrain** to train. {plain(job.result)} You can leave or close this page meanwhile.", icon=":material/model_training:"
        )
    return False


def _show_state(job: Job) -> bool:
    """Show the progress of the trainings, or how they ended; return whether anything is pending."""
    waiting = job.state is State.WAITING
    event: Event = job.news if isinstance(job.news, Event) else Event("waiting for another run to end" if waiting else "starting")
    if not job.ended:
        facts = [f"{event.done} of {event.total} {event.of}"] if event.total else []
        job_panel.show_progress(event.done / event.total if event.total else 0.0, event.doing, *facts, seconds_left=event.seconds_left)
        return True
    job_panel.show_ended(job, f"{event.done} of {event.total} trainings computed" if event.total else "nothing computed yet")
    # It may have ended just now: the next rerun shows its result.
    return job.state is State.DONE


def _show(result: RoarResult) -> None:
    st.markdown(f"##### {plain(result.finding)}")
    figure = result.figure()
    st.plotly_chart(
        draw(figure), key=f"r_figure_{_key(result.spec)}", width="stretch", config=camera("roar"),
        alt=f"{figure.caption} The same numbers are in the table below.",
    )  # fmt: skip
    st.caption(plain(figure.caption))
    for keep in dict.fromkeys(curve.keep for curve in result.curves):
        st.caption(f"**{TITLES[keep]}**: {READINGS[keep]}.")
        chance, curves = result.random(keep), {str(curve.method): curve for curve in result.of_order(keep)}
        rows = [
            {
                "rank": place.ranks,
                "method": place.name,
                "area under the accuracy": interval(place.summary),
                "difference to random maps": "chance" if curves[place.name] is chance else interval(result.to_random(curves[place.name])),
            }
            for place in result.ranking(keep)
        ]
        st.dataframe(rows, hide_index=True, width="stretch", key=f"r_table_{keep}_{_key(result.spec)}")
    if result.refused:
        with st.expander(f"Left out because not defined here: {len(result.refused)}", icon=":material/block:"):
            for method, reason in result.refused:
                st.markdown(f"**{plain(str(method))}**: {plain(reason)}")
    notices.warn(result.warnings)
    notices.folded(result.notes)
    st.caption(f"{result.computed} networks trained now, {result.cached} cached; {duration(result.seconds)}.")
