"""Why did the model say that? One photo, many methods side by side."""

import dataclasses
from urllib.parse import parse_qsl

import streamlit as st

from attrlib.data.images import Photo
from attrlib.data.samples import PREFIX
from attrlib.engine.explanation import Explanation
from attrlib.errors import AttrlibError
from attrlib.models import Classifier
from attrlib.specs import SCALES, SIGNS, ExplainSpec, MethodSpec, ModelSpec, ViewSpec
from pages.parts import choice, choosers, takeaway, tiles, work

KERNELS = [0, *range(1, 258, 2)]


def main() -> None:
    """What is to be computed, above; the gallery, which shows it, below."""
    state = st.session_state
    choice.start(st.query_params.to_dict())
    st.markdown("#### Why did the model say that?")
    st.caption("One photo, many methods side by side: which pixels raise (orange) and which lower (blue) the score of the target class.")
    notices = st.empty()
    row = st.grid(min_column_width=150, gap="small", key="controls")
    photo = choosers.choose_photo(row)
    model = choosers.choose_model(row)
    if model is None or photo is None:
        choosers.show_problems(notices)
        st.info("Choose another model or photo above to go on.", icon=":material/arrow_upward:")
        return
    probabilities = work.wait_for(work.prediction_job(model, photo), "Asking the model")
    if probabilities is None:
        return
    best = [int(i) for i in probabilities.topk(min(5, len(probabilities))).indices]
    target = choosers.choose_target(row, model, best, probabilities)
    methods = choosers.choose_methods(row, model)
    choosers.show_problems(notices)
    spec = ExplainSpec(
        ModelSpec(state.architecture, state.checkpoint.strip() or None),
        photo.name if photo.name.startswith(PREFIX) else f"{choice.UPLOAD}:{photo.name}",
        tuple(methods),
        None if state.target == choosers.SAME_AS_PREDICTED else target,
        state.seed,
    )
    top = [(model.class_names[i].split(",")[0], float(probabilities[i])) for i in best]
    slots = _slots(model, photo, methods, target)
    running = not all(s.ended for s in slots)
    st.fragment(run_every=0.35 if running else None)(_gallery)(model, photo, spec, target, top, running)


def _slots(model: Classifier, photo: Photo, methods: list[MethodSpec], target: int) -> list[tiles.Slot]:
    slots = []
    for method in methods:
        try:
            model.layer(method.layer)
            slots.append(tiles.Slot(method, work.map_job(model, photo, method, target, st.session_state.seed)))
        except AttrlibError as error:
            slots.append(tiles.Slot(method, None, str(error)))
    return slots


def _gallery(model: Classifier, photo: Photo, spec: ExplainSpec, target: int, top: list[tuple[str, float]], running: bool) -> None:
    """The view's dials and the tiles: all that runs again when a dial is moved or a map is ready."""
    slots = _slots(model, photo, list(spec.methods), target)
    ready = [s.job.result for s in slots if s.job is not None and s.done]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="view"):
        view = _choose_view()
        spec = dataclasses.replace(spec, view=view)
        takeaway.reproduce(spec)
        image = spec.image.removeprefix(f"{choice.UPLOAD}:")
        shown = dataclasses.replace(spec, image=image, target=target, methods=tuple(a.spec for a in ready))
        takeaway.save(Explanation(shown, model, photo, ready) if ready else None)
    if not slots:
        st.info("No method is chosen. Choose some above, for example Grad-CAM and IxG.", icon=":material/arrow_upward:")
    picture = tiles.picture(photo.digest, model.preprocessing, photo.image)
    tiles.show_grid(slots, picture, model.class_names[target].split(",")[0], top, view)
    link = dict(parse_qsl(spec.link().lstrip("?"), keep_blank_values=True))
    if st.query_params.to_dict() != link:
        st.query_params.from_dict(link)
    # Polling starts and stops with a full run; work may also start here: by "Try again", or because a map was no longer kept.
    if running == all(s.ended for s in slots):
        st.rerun()


def _choose_view() -> ViewSpec:
    options = {p.name: p for p in ViewSpec.options()}
    st.segmented_control("Sign", SIGNS, key="sign", persist_state="session", required=True, help=options["sign"].help)
    st.select_slider(
        "Smoothing K",
        KERNELS,
        key="smoothing",
        persist_state="session",
        width=170,
        help="Gaussian of K × K px at the input's size, sigma = K/4, on the signed map.",
    )
    st.slider("Opacity", 0.0, 1.0, step=0.05, key="opacity", persist_state="session", width=120, help=options["opacity"].help)
    st.segmented_control("Colour scale", SCALES, key="scale", persist_state="session", required=True, help=options["scale"].help)
    with st.popover("Colours", icon=":material/palette:"):
        st.slider("Clip percentile", 50.0, 100.0, step=0.5, key="clip", persist_state="session", help=options["clip"].help)
        st.selectbox("Signed maps", options["diverging"].choices, key="diverging", persist_state="session")
        st.selectbox("Positive maps", options["sequential"].choices, key="sequential", persist_state="session")
    return choice.view()


main()
