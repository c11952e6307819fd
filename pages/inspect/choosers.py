"""The controls for photo, model, class, target, methods, layer and parameters."""

from collections import Counter
from collections.abc import Container, Mapping

import streamlit as st
from torch import Tensor

from attrlib.data.images import KINDS, Photo, open_photo
from attrlib.data.pictures import NAMES, open_image, title
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, Preset, named_methods
from attrlib.models import Classifier
from attrlib.specs import MethodSpec, ModelSpec
from attrlib.targets.classes import JOIN
from pages.inspect import choice
from pages.shared import forms, job_status, jobs, model_choosers, notices, pickers, presets, selection, targets
from pages.shared.classes import Reading, reading
from pages.shared.widget_values import chooser

SAME_AS_PREDICTED = -1


def choose_photo(row: pickers.Grid) -> Photo | None:
    """Return the chosen sample or uploaded photo, or None after showing what is wrong with it."""
    state = st.session_state
    with row.cell():
        named = dict.fromkeys([*NAMES, *([] if state.image == choice.UPLOAD else [state.image])])
        names = {name: title(name) for name in named} | ({choice.UPLOAD: state.upload.name} if state.upload else {})
        st.selectbox("Photo", format_func=lambda option: names[option], **chooser("image", list(names)))
        with st.popover("Upload a photo", icon=":material/upload:", width="stretch"):
            st.file_uploader(
                f"{KINDS}, up to {pickers.PHOTO_MB} MB", key="uploader", on_change=_take_upload, max_upload_size=pickers.PHOTO_MB
            )
            st.caption("Photos stay in the memory of this session. They are not stored, and not part of any link.")
    try:
        photo = state.upload if state.image == choice.UPLOAD else open_image(state.image)
    except AttrlibError as error:
        notices.error(error)
        return None
    notices.notes(f"{photo.name}: {note}" for note in photo.notes)
    return photo


def _take_upload() -> None:
    state = st.session_state
    if state.uploader is None:
        return
    try:
        state.upload = open_photo(state.uploader.getvalue(), state.uploader.name[:80])
        state.image = choice.UPLOAD
        notices.dismiss("problems")
    except AttrlibError as error:
        state.problems.append(str(error))


def choose_model(row: pickers.Grid) -> Classifier | None:
    """Return the chosen model, with a checkpoint if one is given, or None after showing why it cannot be loaded."""
    with row.cell():
        model_choosers.one("model")
    try:
        spec = choice.model()
    except AttrlibError as error:
        notices.error(error)
        return None
    return job_status.wait_for(jobs.model_job(spec), f"Loading {spec}")


def choose_class(row: pickers.Grid, model: Classifier, best: Mapping[int, Reading], values: Tensor) -> int:
    """Return the class or number to explain: the predicted one, or another one from the list. Below it is the chooser of the target.

    Args:
        row: Row of the control.
        model: The model.
        best: Readings of the most probable classes, best first, or of the first numbers.
        values: What the model reads off the photo, (C,).
    """
    state, top = st.session_state, next(iter(best))
    names = [n.split(",")[0] for n in model.class_names]
    # Streamlit distinguishes options by their labels, and ImageNet has two classes named crane.
    twice = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name} ({i})" if name in twice else name for i, name in enumerate(names)]
    others = sorted(set(range(len(names))) - set(best), key=lambda i: names[i].lower())
    known = range(SAME_AS_PREDICTED, len(names))
    one, what = model.outputs.nouns
    # Of the features of a backbone none is predicted.
    default = "first" if one == "feature" else "predicted"
    _recall("target", known)
    if state.target not in known:
        state.problems.append(
            f"{one.capitalize()} {state.target} does not exist: {model.name} has {what} 0 to {len(names) - 1}. The {default} {one} is used instead."
        )
        state.target = SAME_AS_PREDICTED
    state.target_was = state.target

    def label(i: int) -> str:
        if i != SAME_AS_PREDICTED:
            return f"{names[i]} {reading(model, values, i).text}"
        first = best[top]
        if not first.is_probability:
            return f"{default}: {first.text}"
        return f"most probable: {names[top]}" if not (model.outputs.exclusive or first.predicted) else f"predicted: {names[top]}"

    hint = (
        "The class that is explained. The five most probable classes come first. Type to search."
        if model.outputs.exclusive
        else "The label that is explained. The five most probable labels come first; ✓ marks those with a probability of 0.5 or more."
    )
    with row.cell():
        st.selectbox(
            one.capitalize(),
            [SAME_AS_PREDICTED, *best, *others],
            format_func=label,
            key="target",
            persist_state="session",
            help=hint if model.outputs.has_classes else f"The {one} that is explained.",
        )
        target = top if state.target == SAME_AS_PREDICTED else state.target
        with st.popover(f"Target: {state.explained}", icon=":material/my_location:", width="stretch", key="explaining"):
            targets.choose(offers=_offers(model, best, target, {str(i): names[i] for i in (*best, *others)}))
    return target


def _offers(model: Classifier, best: Mapping[int, Reading], target: int, classes: Mapping[str, str]) -> targets.Offers:
    """Return what targets may name of the model. They start with the most probable other class, the predicted labels, and the last layer."""
    layers = [name for name in selection.layer_options(list(model.layers)) if name in model.layers and model.layers[name].path]
    labels = [i for i, each in best.items() if each.predicted] or [target]
    other = next((i for i in best if i != target), None)
    first = {"class": "" if other is None else str(other), "classes": JOIN.join(map(str, labels)), "layer": layers[-1] if layers else ""}
    if "Final" in layers:
        first["layer"] = "Final"
    pictures = {name: title(name) for name in NAMES}
    return targets.Offers({"class": classes, "classes": classes, "layer": {name: name for name in layers}, "picture": pictures}, first)


def _recall(key: str, known: Container[object]) -> None:
    """Restore the last choice if the session's value is not among the options.

    A browser sends an option's label. Labels of classes and layers change with photo and model, so a stale one may arrive.
    """
    state = st.session_state
    if state[key] not in known:
        state[key] = state.get(f"{key}_was", state[key])


def choose_methods(row: pickers.Grid, model: Classifier) -> list[MethodSpec]:
    """Return the chosen methods, resolved, in the order of choice."""
    state = st.session_state
    with row.cell(column_span=2):
        pickers.several(
            f"Methods: {len(state.methods)} of {len(METHODS)}",
            [*METHODS, *named_methods()],
            "methods",
            pickers.METHOD_HINT,
            choice.MAX_METHODS,
            placeholder="Choose methods",
        )
        with st.container(horizontal=True, gap="small"):
            presets.choose("inspect", _take)
            with st.popover("Parameters", icon=":material/tune:", width="stretch"):
                hint = "Seed of methods that draw random numbers, such as SmoothGrad, RISE and Random."
                st.number_input("Seed", 0, 2**31 - 1, step=1, key="seed", persist_state="session", help=hint)
                forms.edit_one_of(METHODS, state.methods, "params", "form")
    with row.cell():
        layers = selection.layer_options(list(model.layers))
        _recall("layer", layers)
        if state.layer not in layers:
            state.problems.append(
                f"{model.name} has no layer {state.layer!r} that yields a map; the default layer of each method is used instead."
            )
            state.layer = selection.DEFAULT_LAYER
        state.layer_was = state.layer
        shapes = {name: "×".join(map(str, layer.shape[1:])) for name, layer in model.layers.items()}
        st.selectbox(
            "Layer",
            format_func=lambda n: f"{n} {shapes[n]}" if n in shapes else n,
            **chooser("layer", layers),
            help="Where attribution is computed: at the pixels, at a layer of the network (with its resolution), or at Input, Middle and Final side "
            "by side (ML-Att).",
        )
    methods, problems = selection.chosen_methods(state.methods, state.layer, state.params, targets.chosen())
    if len(methods) > choice.MAX_METHODS:
        problems.append(f"{len(methods)} maps are too many to show; the first {choice.MAX_METHODS} are shown")
        methods = methods[: choice.MAX_METHODS]
    notices.warn(problems)
    return methods


def _take(preset: Preset) -> None:
    choice.fill_methods(preset.methods)


def choose_more_models(first: ModelSpec) -> list[ModelSpec]:
    """Show the sidebar's model list and return all valid models except the first; invalid entries get a message."""
    with st.sidebar:
        pickers.several(
            "More models (one row each)",
            model_choosers.names(),
            "also",
            f"Each model is explained for what it predicts. {model_choosers.HINT}",
            choice.MAX_MODELS - 1,
            placeholder="Choose models",
        )
        problems: list[str] = []
        models = selection.parse_models(st.session_state.also, problems)
        notices.warn(problems)
    return [model for model in models if model != first]
