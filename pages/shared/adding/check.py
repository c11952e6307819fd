"""The step of the dialog that shows what the model makes of a photo and of data, and whether the input goes in as it should."""

import streamlit as st

from attrlib.data.images import open_photo
from attrlib.data.pictures import NAMES, open_image, title
from attrlib.diagnostics.input_check import LIMIT, InputCheck, Trial, check_input
from attrlib.engine.jobs import State
from attrlib.errors import AttrlibError
from attrlib.models import Classifier
from attrlib.progress import NewsProgress
from attrlib.specs import digest, size_text
from attrlib.statistics import proportion
from pages.shared import job_status, jobs, notices, pickers, tiles
from pages.shared.adding import draft
from pages.shared.classes import readings
from pages.shared.jobs import sentence
from pages.shared.roots import load_data
from pages.shared.widget_values import chooser

UPLOADED = "uploaded photo"


def show_photo(model: Classifier) -> bool:
    """Show a photo as the network sees it, with what it reads off; return whether that is pending."""
    upload = draft.get("photo_upload")
    options = [*NAMES, *([UPLOADED] if upload else [])]
    names = {name: title(name) for name in NAMES} | {UPLOADED: upload.name if upload else ""}
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.selectbox("Photo", format_func=names.__getitem__, **chooser(draft.key("photo"), options))
        with st.popover("Upload", icon=":material/upload:"):
            st.file_uploader("A photo", key=draft.key("photo_file"), on_change=_take_photo, max_upload_size=pickers.PHOTO_MB)
            notices.warn(st.session_state.get(draft.key("photo_problem"), ()))
    photo = upload if draft.get("photo") == UPLOADED else open_image(draft.get("photo"))
    try:
        seen = tiles.picture(photo.digest, model.preprocessing, photo)
    except AttrlibError as error:
        notices.error(error)
        return False
    job = jobs.prediction_job(model, photo)
    picture, top = st.columns([1, 1], gap="small")
    with picture:
        tiles.head("As the network sees it", f"{size_text(model.input_size)} px")
        st.image(seen, width="stretch", alt=f"{photo.name} as the network sees it")
    with top:
        tiles.head("Prediction", photo.name.removeprefix("sample:"))
        if not job.ended:
            job_status.pending("Running the model")
            return True
        job_status.show_failure(job, place="photo")
        if job.state is State.DONE:
            st.html(tiles.bars(readings(model, job.result).values()))
    return False


def _take_photo() -> None:
    state = st.session_state
    file = state[draft.key("photo_file")]
    state[draft.key("photo_problem")] = []
    if file is None:
        return
    try:
        draft.put("photo_upload", open_photo(file.getvalue(), file.name[:80]))
        draft.put("photo", UPLOADED)
    except AttrlibError as error:
        state[draft.key("photo_problem")] = [str(error)]


def show_data(model: Classifier) -> bool:
    """Show the accuracy on data, under the chosen preprocessing and under others; return whether it is being measured."""
    if not model.outputs.has_classes:
        st.caption("The model predicts a number, so there is neither an accuracy nor a probability to compare.")
        return False
    hint = (
        f"Up to {LIMIT} pictures of a data set, or of a folder. With labels, the accuracy is measured under the chosen preprocessing and under "
        "others; without, the top-1 probability."
    )
    pickers.data(draft.key("data"), hint)
    source = (draft.get("data") or "").strip()
    key = digest("input check", jobs.digest_of(model), model.class_names, source)
    job = jobs.device_queue().find(key) if draft.get("checking") == key else None
    running = job is not None and not job.ended
    st.button(
        "Check the input", key=draft.key("check"), on_click=_start, args=(model, source, key), icon=":material/fact_check:",
        disabled=not source or running,
    )  # fmt: skip
    if running:
        assert job is not None
        st.progress(job.done / job.total if job.total else 0.0, text=f"{job.done} of {job.total} pictures" if job.total else "waiting")
        st.button("Cancel", key=draft.key("check_cancel"), on_click=job.cancel, type="tertiary", icon=":material/close:")
    elif job is not None and job.state is State.DONE:
        _show(job.result)
    elif job is not None:
        notices.error(job.error or "It was cancelled.")
    return running


def _start(model: Classifier, source: str, key: str) -> None:
    def check(on_progress: NewsProgress) -> InputCheck:
        return check_input(model, load_data(source), on_progress=on_progress)

    draft.put("checking", key)
    jobs.restart(jobs.device_queue(), key, check)


def _show(result: InputCheck) -> None:
    chosen, better = result.trials[0], result.better
    if result.labelled:
        share = proportion(int(chosen.values.sum()), result.count)
        st.markdown(f"**Accuracy {100 * share.mean:.0f} %** [{100 * share.low:.0f} %, {100 * share.high:.0f} %], {result.count} pictures")
    rows = [
        {"preprocessing": trial.name.removeprefix("the "), result.measure: 100 * trial.values.mean()}
        for trial in result.trials
    ]  # fmt: skip
    column = {result.measure: st.column_config.NumberColumn(format="%.0f %%")}
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=column, key="n_trials", alt="Other preprocessing")
    if better is None:
        st.caption(f":material/check: {sentence(result.sentence)}")
    else:
        st.warning(sentence(result.sentence), icon=":material/error:")
        st.button(f"Use {better.name}", key=draft.key("use"), on_click=_use, args=(better,), icon=":material/tune:")
    notices.notes(result.notes)
    if result.unreadable:
        st.caption(f":material/broken_image: {result.unreadable} pictures cannot be read.")


def _use(trial: Trial) -> None:
    if "fit" in trial.changes:
        draft.put("fit", trial.changes["fit"])
    else:
        draft.put_normalisation(trial.changes["mean"], trial.changes["std"])
