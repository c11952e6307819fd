"""The steps of the dialog that say what the network is: its architecture, its classes, what goes in, and what comes out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import streamlit as st

from attrlib.diagnostics.input_check import NORMALISATIONS
from attrlib.engine.jobs import State, queue
from attrlib.errors import AttrlibError, ModelError
from attrlib.models import Classifier
from attrlib.models.bring import Draft, described
from attrlib.specs import FITS, INTERPOLATIONS, OUTPUTS, digest, size_text
from attrlib.specs.model import numbers_text
from pages.shared import job_status, notices, pickers, roots
from pages.shared.adding import candidate, draft
from pages.shared.jobs import plain
from pages.shared.widget_values import chooser, widget

Place = AbstractContextManager[Any]
NAMES_FROM = {"model": "As found", "list": "A list", "data": "Class folders", "numbers": "Numbers"}
MEANINGS = {
    "auto": "detected",
    "softmax": "logits of classes, of which one is present (softmax)",
    "sigmoid": "logits of labels, of which several can be present (sigmoid)",
    "binary": "one logit of two classes (binary)",
    "scalar": "numbers, as in regression (scalar)",
    "features": "features of a backbone without a head (features)",
    "probabilities": "probabilities",
}
_SHOWN = 6
_LONGEST_LIST = 1 << 20


@dataclass(frozen=True, eq=False)
class Steps:
    """The controls that describe the network, with the places for what is found out once it is loaded."""

    architecture: str | None
    loading: Place
    naming: Place
    reading: Place

    @classmethod
    def show(cls, found: Draft) -> "Steps":
        """Show the controls."""
        name = _choose_architecture(found)
        loading = st.container()
        _choose_class_names()
        naming = st.container()
        _choose_input()
        _choose_outputs()
        return cls(name, loading, naming, st.container())

    def load(self, file: str) -> Classifier | bool:
        """Return the model as described; else whether a job for it is pending, after showing that, or what is wrong."""
        if self.architecture is None:
            return False
        try:
            spec = draft.spec(self.architecture, file)
        except AttrlibError as error:
            with self.reading:
                notices.error(error)
            return False
        job = candidate.model_job(spec)
        if not job.ended:
            with self.loading:
                job_status.pending("Loading the model")
            return True
        if job.state is not State.DONE:
            with self.loading:
                notices.error(job.error or "It was cancelled.")
            draft.offer_key(job.error)
            return False
        with self.reading:
            _show_found(job.result)
            notices.folded(job.result.remarks, job.result.name)
        with self.naming:
            return _named(job.result)


def _choose_architecture(found: Draft) -> str | None:
    """Show the choice of the architecture; return its name, or None after showing what is missing or wrong."""
    fits = "Suggested because keys and shapes fit." if found.architectures else "No known architecture fits the keys and shapes."
    pickers.one(
        "Architecture",
        found.architectures,
        draft.key("architecture"),
        f"{fits} Or type timm:NAME or torchvision:NAME.",
        placeholder="timm:NAME or torchvision:NAME",
    )
    if not found.architectures:
        st.caption("No architecture of timm or torchvision fits the keys and shapes. Type the one that the weights were saved from.")
    try:
        return draft.architecture()
    except AttrlibError as error:
        notices.error(error)
        return None


def _choose_input() -> None:
    """Show the controls of the preprocessing."""
    own = draft.NATIVE
    with st.grid(min_column_width=108, gap="small", key="n_input") as row:
        with row.cell():
            hint = "Height and width in pixels, as in 192x256, or one number for a square. Native: that of the card or of the architecture."
            st.text_input("Input size", **widget(draft.key("size")), placeholder=own, help=hint)
        with row.cell():
            st.selectbox(
                "Normalisation",
                **chooser(draft.key("normalisation"), [draft.NATIVE, *NORMALISATIONS, draft.CUSTOM]),
                help="What the training made of colours: ImageNet's mean and std, or the range to which they were scaled. Native: as the card or the "
                "architecture says.",
            )
        if draft.get("normalisation") == draft.CUSTOM:
            for field, label in (("mean", "Mean"), ("std", "Std")):
                with row.cell():
                    hint = "One number for each channel, for colours in [0, 1], as in 0.5/0.5/0.5."
                    st.text_input(label, **widget(draft.key(field)), placeholder="0.5/0.5/0.5", help=hint)
        with row.cell():
            st.selectbox(
                "Fit",
                **chooser(draft.key("fit"), FITS),
                placeholder=own,
                help="Photos of another shape are cropped at the centre, squashed, or get a border.",
            )
        with row.cell():
            st.selectbox("Interpolation", **chooser(draft.key("interpolation"), INTERPOLATIONS), placeholder=own)
        with row.cell():
            st.number_input(
                "Crop",
                0.1,
                2.0,
                step=0.05,
                **widget(draft.key("crop")),
                placeholder=own,
                help="Share of the photo's short side that the input covers; 1: all of it.",
            )


def _choose_outputs() -> None:
    """Show the choice of what the network's numbers mean."""
    st.selectbox(
        "Outputs",
        format_func=MEANINGS.__getitem__,
        **chooser(draft.key("outputs"), OUTPUTS),
        help="What the network's numbers mean. Detected: by their number, their values and the last activation.",
    )


def _show_found(model: Classifier) -> None:
    """Show what goes in and what comes out, as the loaded model has it."""
    own = model.preprocessing
    mean, std = (numbers_text(tuple(round(value, 3) for value in values)) for values in (own.mean, own.std))
    st.caption(
        f"Input: {size_text(own.size)} px, mean {mean}, std {std}, {own.interpolation}, crop {own.crop:.3g}, {own.fit}. "
        f"Outputs: {MEANINGS[model.outputs.kind]}."
    )


def _choose_class_names() -> None:
    """Show where the class names come from."""
    pickers.switch("Class names", NAMES_FROM, draft.key("names_from"), "As found: in the file, beside it, or those of ImageNet.")
    if draft.get("names_from") == "list":
        st.text_area(
            "One name per line",
            **widget(draft.key("names")),
            height=110,
            placeholder="cat\ndog",
            help="In the order of the network's outputs.",
        )
        st.file_uploader("Or a text file", ["txt"], key=draft.key("names_file"), on_change=_take_names, max_upload_size=1)
        notices.warn(st.session_state.get(draft.key("names_problem"), ()))
    elif draft.get("names_from") == "data":
        pickers.data(draft.key("names_data"), "Its class folders, in sorted order, are the classes.")


def _take_names() -> None:
    state = st.session_state
    file = state[draft.key("names_file")]
    state[draft.key("names_problem")] = []
    if file is None:
        return
    try:
        draft.put("names", file.getvalue()[:_LONGEST_LIST].decode("utf-8-sig"))
    except UnicodeDecodeError:
        state[draft.key("names_problem")] = [f"{file.name[:80]} is not a text file in UTF-8; save it as one, with one name per line"]


def _named(model: Classifier) -> Classifier | bool:
    """Return the model with the chosen class names; else whether they are still being read, after showing that, or what is wrong."""
    names: Sequence[str] | None = None
    way = draft.get("names_from")
    if way == "data":
        read = _names_of_data()
        if isinstance(read, bool):
            return read
        names = read
    elif way == "list":
        names = draft.lines("names")
    elif way == "numbers":
        names = model.outputs.names(len(model.class_names), None, model.name)
    try:
        if way == "list" and not names:
            raise ModelError(f"write {len(model.class_names)} names, one per line, in the order of the network's outputs")
        model = described(model, names, draft.get("tuned"))
    except AttrlibError as error:
        notices.error(error)
        return False
    shown = ", ".join(name.split(",")[0] for name in model.class_names[:_SHOWN])
    more = ", …" if len(model.class_names) > _SHOWN else ""
    count, (one, several) = len(model.class_names), model.outputs.nouns
    st.caption(f"{count} {one if count == 1 else several}: {plain(shown)}{more}")
    return model


def _names_of_data() -> tuple[str, ...] | bool:
    source = (draft.get("names_data") or "").strip()
    if not source:
        st.caption("Choose the data set, or type its folder.")
        return False
    job = queue("data").submit(digest("class names", source), lambda _progress: roots.load_data(source).class_names)
    if not job.ended:
        job_status.pending("Reading the class folders")
        return True
    if job.state is not State.DONE:
        job_status.show_failure(job, place="names")
        return False
    return job.result
