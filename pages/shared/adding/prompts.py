"""The steps of the dialog for CLIP and SigLIP: a model, and the prompts that make its classes, which are part of its name."""

from contextlib import suppress

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.errors import AttrlibError, ModelError
from attrlib.models import Classifier, check_name
from attrlib.models.folders.prompts import CLIP, IMAGENET, Prompts, join_prompts, named_by_prompts, prompts_of, split_prompts
from attrlib.specs import ModelSpec
from pages.shared import job_status, notices, roots
from pages.shared.adding import candidate, draft
from pages.shared.jobs import plain
from pages.shared.widget_values import widget

_SHOWN = 6


def describe() -> ModelSpec | None:
    """Show the controls, and the prompts that they make; return the model, or None after showing what is missing or wrong."""
    st.text_input(
        "CLIP or SigLIP model",
        **widget(draft.key("clip")),
        placeholder="openai/clip-vit-base-patch32",
        help="ORG/NAME of the Hugging Face hub, from which it is downloaded, or the path of a folder on the server, such as /data/clip. "
        f"{roots.readable_text()}",
    )
    classes, templates = st.columns(2, gap="small")
    with classes:
        hint = f"Two or more, in any words that describe them. {IMAGENET} alone: the 1,000 classes of ImageNet."
        st.text_area("Classes, one per line", **widget(draft.key("classes")), height=130, placeholder="cat\ndog", help=hint)
    with templates:
        hint = "Sentences with {} in place of the class, whose embeddings are averaged. Empty: the lines with the classes are the prompts."
        st.text_area("Templates, one per line", **widget(draft.key("templates")), height=130, placeholder="{}", help=hint)
    if not (draft.get("clip").strip() and draft.lines("classes")):
        st.caption("The other steps follow when there are a model and its classes.")
        return None
    try:
        spec = _spec()
        prompts = prompts_of(spec.architecture)
    except AttrlibError as error:
        notices.error(error)
        return None
    assert prompts is not None
    st.caption(_preview(prompts))
    return spec


def _spec() -> ModelSpec:
    """Return the model with its prompts. Raises `ModelError` if there is none, the app may not read it, or its prompts are not valid."""
    typed = draft.get("clip").strip().removeprefix(CLIP)
    spec = ModelSpec(named_by_prompts(f"{CLIP}{typed}", draft.lines("classes"), draft.lines("templates")))
    # What the app may read comes first: another message for a folder that does not exist would tell which ones do.
    roots.check_model(spec)
    check_name(spec.architecture)
    # Links and choosers hold the text form.
    if ModelSpec.parse(spec.text) != spec:
        raise ModelError(f"{typed[:120]!r} has characters with a meaning in names of models, such as @ and commas; rename the folder")
    return spec


def _preview(prompts: Prompts) -> str:
    """Return the number of classes, and the first prompts."""
    count, each = len(prompts.names), len(prompts.templates)
    texts = [text for of_class in prompts.texts[: _SHOWN // min(each, _SHOWN)] for text in of_class[:_SHOWN]]
    more = "" if len(texts) == count * each else ", …"
    averaged = f" of {each} prompts each" if each > 1 else ""
    return f"{count} classes{averaged}: {plain(', '.join(repr(text[:80]) for text in texts))}{more}"


def load(spec: ModelSpec) -> Classifier | bool:
    """Return the model; else whether it is being loaded, after showing that, or what is wrong."""
    job = candidate.model_job(spec)
    if not job.ended:
        job_status.pending("Loading the model")
        return True
    if job.state is not State.DONE:
        job_status.show_failure(job, place="prompts")
        return False
    model: Classifier = job.result
    notices.folded(model.remarks, model.name)
    return model


def fill(model: str) -> None:
    """Fill in the model that is chosen on the page, to change its prompts; nothing if it is no plain CLIP model."""
    with suppress(AttrlibError):
        spec = ModelSpec.parse(model)
        if not model.startswith(CLIP) or spec != ModelSpec(spec.architecture):
            return
        base, options = split_prompts(spec.architecture)
        if "prompts" in options:
            return
        prompts = prompts_of(spec.architecture)
        kept = {key: value for key, value in options.items() if key == "revision"}
        draft.put("source", draft.PROMPTS)
        draft.put("clip", join_prompts(base, kept).removeprefix(CLIP))
        if prompts is not None:
            draft.put("classes", IMAGENET if options["classes"] == IMAGENET else "\n".join(prompts.names))
            draft.put("templates", "\n".join(prompts.templates))
