"""The Inspect page: one photo, many methods side by side."""

import dataclasses

import streamlit as st

from attrlib.engine.explain import Explanation
from attrlib.registry import params_of
from attrlib.specs import SCALES, SIGNS, ExplainSpec, ViewSpec
from pages.inspect import choice, choosers, takeaway, tile_rows, tools
from pages.inspect.tile_rows import PendingRow, Row
from pages.shared import job_status, jobs, links, notices, pickers, selection, tiles
from pages.shared.classes import readings
from pages.shared.polling import poll


def main() -> None:
    """Show the page: the controls on top, the gallery of maps below."""
    state = st.session_state
    choice.start(st.query_params.to_dict())
    st.markdown("#### Why did the model say that?")
    st.caption(
        "One photo, many attribution methods side by side. In signed maps, orange pixels raise the output of the target, and blue pixels lower it."
    )
    top_of_page = st.container()
    row = st.grid(min_column_width=150, gap="small", key="controls")
    photo = choosers.choose_photo(row)
    model = choosers.choose_model(row)
    if model is None or photo is None:
        with top_of_page:
            notices.problems("problems")
        st.info("Choose another model or photo above to continue.", icon=":material/arrow_upward:")
        return
    values = job_status.wait_for(jobs.prediction_job(model, photo), "Running the model")
    if values is None:
        return
    best = readings(model, values)
    target = choosers.choose_class(row, model, best, values)
    methods = choosers.choose_methods(row, model)
    spec = ExplainSpec(
        choice.model(),
        f"{choice.UPLOAD}:{photo.name}" if state.image == choice.UPLOAD else state.image,
        tuple(methods),
        None if state.target == choosers.SAME_AS_PREDICTED else target,
        state.seed,
    )
    first = Row(spec.model, model, photo, target, best, model)
    more = choosers.choose_more_models(spec.model)
    further = [tile_rows.further_row(model_spec, photo, first, spec.target is not None) for model_spec in more]
    rows = [first, *(row for row in further if isinstance(row, Row))]
    pending = [row for row in further if isinstance(row, PendingRow)]
    with top_of_page:
        notices.problems("problems")
    poll("maps_wait", lambda: _gallery(rows, pending, spec), seconds=0.35)


def _gallery(rows: list[Row], pending: list[PendingRow], spec: ExplainSpec) -> bool:
    """Show the view controls and the tiles, which rerun when a control is moved or a map is ready; return whether a map is pending."""
    slots = [row.slots(spec.methods) for row in rows]
    waiting = bool(pending) or not all(slot.ended for row_slots in slots for slot in row_slots)
    ready = [slot.job.result for slot in slots[0] if slot.job is not None and slot.done]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="view"):
        view = _choose_view()
        spec = dataclasses.replace(spec, view=view)
        further = [
            dataclasses.replace(
                spec,
                model=row.spec,
                target=None if spec.target is None else row.target,
                methods=tuple(slot.method for slot in row_slots if not slot.refusal),
            )
            for row, row_slots in zip(rows[1:], slots[1:], strict=True)
        ]
        takeaway.reproduce(spec, choice.link_fields(), further)
        image = spec.image.removeprefix(f"{choice.UPLOAD}:")
        shown = dataclasses.replace(spec, image=image, target=rows[0].target, methods=tuple(a.spec for a in ready))
        takeaway.save(Explanation(shown, rows[0].model, rows[0].photo, ready) if ready else None)
    if not spec.methods:
        st.info("Choose methods above, for example Grad-CAM and IxG.", icon=":material/arrow_upward:")
    tiles.show_strips(tile_rows.strips(rows, slots), view, in_threes=selection.by_layer(spec.methods))
    _show_notes(rows)
    for row in pending:
        st.progress(0.0, text=f"Loading {jobs.plain(row.spec.text)}")
    tool = tools.choose()
    if tool is not None:
        tools.show(tool, tile_rows.ready_maps(rows, slots), view, waiting)
    links.write(spec.link() + choice.link_fields())
    if any(row.job.ended for row in pending):
        # Only a full rerun creates the row.
        st.rerun()
    return waiting


def _show_notes(rows: list[Row]) -> None:
    """Show what a reader of the maps must know about the models."""
    if len(rows) == 1:
        notices.folded(rows[0].model.remarks, rows[0].model.name)
    else:
        notices.folded(f"{row.model.name}: {note}" for row in rows for note in row.model.remarks)


def _choose_view() -> ViewSpec:
    options = {p.name: p for p in params_of(ViewSpec)}
    pickers.switch("Sign", SIGNS, "sign", options["sign"].help)
    pickers.smoothing("smoothing", "Gaussian of K × K px at the input's size, sigma = K/4, on the signed map.", width=170)
    st.slider("Opacity", 0.0, 1.0, step=0.05, key="opacity", persist_state="session", width=120, help=options["opacity"].help)
    pickers.switch("Colour scale", SCALES, "scale", options["scale"].help)
    with st.popover("Colours", icon=":material/palette:"):
        st.slider("Clip percentile", 50.0, 100.0, step=0.5, key="clip", persist_state="session", help=options["clip"].help)
        st.selectbox("Signed maps", options["diverging"].choices, key="diverging", persist_state="session")
        st.selectbox("Positive maps", options["sequential"].choices, key="sequential", persist_state="session")
    return choice.view()


main()
