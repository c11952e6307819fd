"""The doctor: which methods are valid on a model, at which layers, why others are not, and what they cost."""

import shlex

import streamlit as st

from attrlib.diagnosis import REFUSED, VALID, Diagnosis, Finding, doctor
from attrlib.engine.jobs import Priority, State
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, list_methods
from attrlib.models import EMBEDDED, NAMED
from attrlib.progress import NewsProgress
from attrlib.specs import ModelSpec, digest
from pages.shared import job_panel, jobs, model_choosers, notices
from pages.shared.jobs import plain
from pages.shared.polling import poll
from pages.shared.roots import parse_model
from pages.shared.times import duration, size

IMAGES = 100
LABELS = job_panel.Labels("Examine", "Examine again", "Examine again")


def show() -> None:
    """Show the model chooser, the button, and the report once it is ready."""
    state = st.session_state
    state.setdefault("l_doctor_model", EMBEDDED)
    st.caption(
        "Probe each method at Input, Middle and Final of a model on a synthetic image. The report shows which methods are defined, why others are "
        "not, time and peak memory, and whether a method leaves hooks, modes, gradients or weights changed."
    )
    with st.grid(min_column_width=220, gap="small", vertical_alignment="bottom", key="l_doctor_bar") as row:
        with row.cell():
            model_choosers.one("l_doctor_model")
        with row.cell(column_span=2):
            st.multiselect(
                "Methods",
                [info.name for info in list_methods()],
                key="l_doctor_methods",
                persist_state="session",
                placeholder="All methods",
            )
        with row.cell():
            st.number_input(
                "Images",
                1,
                10_000_000,
                IMAGES,
                key="l_doctor_images",
                persist_state="session",
                help="Time and memory are reported for one image, and estimated for this many.",
            )
    for source, reason in METHODS.left_out.items():
        st.warning(f"A custom method could not be loaded. {plain(source)}: {plain(reason)}", icon=":material/extension_off:")
    try:
        spec = parse_model(state.l_doctor_model or EMBEDDED)
    except AttrlibError as error:
        notices.error(error)
        return
    poll("l_doctor_waits", lambda: _answer(spec), seconds=1.0)


def commands() -> tuple[str, str]:
    """Return the equivalent command line and Python snippet."""
    state = st.session_state
    spec = ModelSpec.parse(state.get("l_doctor_model") or EMBEDDED)
    methods, images = state.get("l_doctor_methods") or [], state.get("l_doctor_images", IMAGES)
    words = ["python", "-m", "attrlib", "doctor", *spec.flags()]
    words += [*(["--methods", ",".join(methods)] if methods else []), "--images", str(images)]
    chosen = f", {methods}" if methods else ""
    return (
        shlex.join(words),
        f"import attrlib\n\nmodel = attrlib.load_model({spec.arguments()})\nfound = attrlib.doctor(model{chosen}, images={images})\nprint(found.json())",
    )


def _key(spec: ModelSpec) -> str:
    state = st.session_state
    return digest("doctor", spec, jobs.stamp(spec), list(state.l_doctor_methods), state.l_doctor_images)


def _start(spec: ModelSpec) -> None:
    methods, images, key = list(st.session_state.l_doctor_methods) or None, int(st.session_state.l_doctor_images), _key(spec)

    def examine(on_progress: NewsProgress) -> Diagnosis:
        model = jobs.result_of(jobs.model_job(spec), on_progress, f"loading {spec}")
        return doctor(model, methods, images=images, on_progress=on_progress)

    jobs.restart(jobs.device_queue(), key, examine, Priority.LONG)


def _answer(spec: ModelSpec) -> bool:
    """Show the button and the report; return whether it is in progress."""
    job = jobs.device_queue().find(_key(spec))
    job_panel.show_button("l_doctor", [job], lambda: _start(spec), LABELS, kept=False)
    if job is None:
        count = len(st.session_state.l_doctor_methods or METHODS) * len(NAMED)
        st.info(
            f"Press **Examine** to run {count} probes of at most a few seconds each. You can leave this page meanwhile.",
            icon=":material/stethoscope:",
        )
    elif not job.ended:
        waiting = job.state is State.WAITING
        probes = [f"{job.done} of {job.total} probes"] if job.total else []
        doing = "waiting for another run to end" if waiting else str(job.news or "starting")
        job_panel.show_progress(job.done / job.total if job.total else 0.0, doing, *probes)
        return True
    elif job.state is State.DONE:
        _show(job.result)
    else:
        notices.error(job.error or "It was cancelled; examine again to start over.")
    return False


def _show(diagnosis: Diagnosis) -> None:
    if diagnosis.clean:
        st.success("No method left hooks, modes, gradients or weights changed.", icon=":material/check_circle:")
    for f in diagnosis.findings:
        if f.changed:
            st.error(
                f"{plain(f.method)} at {f.layer} left changed: {plain(', '.join(f.changed))}. The change was undone.",
                icon=":material/bug_report:",
            )
    notices.notes(diagnosis.model_findings)
    views = {
        "Seconds": "seconds",
        f"Seconds for {diagnosis.images:,}": "seconds_all",
        "Memory": "peak_bytes",
        f"Memory for {diagnosis.images:,}": "peak_bytes_all",
    }
    chosen = st.segmented_control("Of one image, or of all", list(views), default="Seconds", required=True, label_visibility="collapsed", key=f"l_doctor_view_{diagnosis.images}")  # fmt: skip
    shapes = {name: f"{name} {shape[1]}×{shape[2]}" for name, shape in diagnosis.layers.items()}
    layers = list(dict.fromkeys(f.layer for f in diagnosis.findings))
    rows = [
        {"method": method, "family": METHODS[method].family if method in METHODS else ""}
        | {shapes.get(layer, layer): _cell(diagnosis.finding(method, layer), views[chosen or "Seconds"]) for layer in layers}
        | {"remarks": " ".join(f"{reason}." if reason[-1] not in ".!?" else reason for reason in diagnosis.reasons(method))}
        for method in diagnosis.methods
    ]
    columns = {"method": st.column_config.TextColumn(pinned=True), "remarks": st.column_config.TextColumn(width="large")}
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=columns, key="l_doctor_table")
    st.caption(
        f"On {plain(diagnosis.device)}, besides {size(diagnosis.weight_bytes)} of weights, at default parameters. Methods of many passes were timed with 16 "
        "passes, and their time was extrapolated."
    )
    _why(diagnosis)


def _cell(finding: Finding, field: str) -> str:
    value = getattr(finding, field)
    if finding.state != VALID or value is None:
        return "not defined" if finding.state == REFUSED else "failed"
    return size(value) if field.startswith("peak") else duration(value)


def _why(diagnosis: Diagnosis) -> None:
    """Show each reason once, with the methods that it applies to."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for f in diagnosis.findings:
        if f.state != VALID:
            # A reason that names its method applies to no other method.
            reasons.setdefault(f.reason, {}).setdefault(f.method, []).append(f.layer)
    if reasons:
        with st.expander(
            f"Not defined: {sum(f.state != VALID for f in diagnosis.findings)} of {len(diagnosis.findings)}", icon=":material/block:"
        ):
            for reason, methods in reasons.items():
                who = ", ".join(m if len(layers) == len(NAMED) else f"{m} at {' and '.join(layers)}" for m, layers in methods.items())
                st.markdown(f"**{plain(who)}**: {plain(reason)}")
