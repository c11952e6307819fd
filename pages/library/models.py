"""Models of the library: shipped and added models with their cards, a search over all others, and the published checkpoints."""

import time
from typing import Any

import streamlit as st

from attrlib.engine.jobs import Job, State, queue
from attrlib.errors import AttrlibError
from attrlib.models import Card, ModelInfo, download, list_models, named, remove_model
from attrlib.models.added import added, left_out
from attrlib.models.architectures import PUBLISHED
from attrlib.models.download import downloaded
from attrlib.specs import digest
from attrlib.specs.model import numbers_text
from pages.shared import job_status, jobs, notices, roots
from pages.shared.jobs import plain
from pages.shared.polling import poll
from pages.shared.times import size
from pages.shared.widget_values import chooser

FRESH = 20
"""Seconds for which the list of downloaded files is reused."""
SHOWN = 200
"""Largest number of search matches that are listed; timm alone has more than a thousand models."""


def show() -> None:
    """Show the models that need no download, then the search, then the published checkpoints."""
    st.markdown("##### Models without download")
    try:
        _ready()
    except AttrlibError as error:
        notices.error(error)
    _search()
    _published()


def _ready() -> None:
    """Show all models that need no download in one table, and the card of one of them."""
    cards = {name: Card.read(path) for name, path in named().items()}
    rows = [_row(info, cards.get(info.name)) for info in list_models()]
    percent = st.column_config.NumberColumn(
        format="%.1f %%", help="Top-1 accuracy on held-out images. Deleted: with random patches of each image deleted."
    )
    columns = {
        "parameters (M)": st.column_config.NumberColumn(format="%.2f"),
        "clean": percent,
        "deleted": percent,
        "deletion-tuned": st.column_config.CheckboxColumn(help="Fine-tuned on images with deleted patches, as IDSDS requires."),
    }
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height="auto",
        column_config=columns,
        key="l_ready",
        placeholder="–",
        alt="Models that need no download",
    )
    notices.warn(left_out())
    if not cards:
        notices.notes(["This installation ships only the embedded model. Train others with python -m attrlib finetune."])
        return
    if st.session_state.setdefault("l_card", next(iter(cards))) not in cards:
        st.session_state.l_card = next(iter(cards))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.selectbox("Model card", **chooser("l_card", list(cards)), width=320)
        name = st.session_state.l_card
        if name in added():
            _remover(name)
    card = cards[name]
    facts = [f"top-1 {what} **{found}**" for what in ("clean", "deleted") if (found := _accuracy(card.accuracy.get(what)))]
    if facts:
        st.caption(f"{', '.join(facts)} on {plain(str(card.accuracy.get('data', card.data)))}", help="With 95 % CIs. Deleted: with random patches of each image deleted.")  # fmt: skip
    narrow = {"property": st.column_config.TextColumn(width="small")}
    st.dataframe(
        _facts(card), hide_index=True, width="stretch", height="content", column_config=narrow, key="l_facts", alt=f"Card of {name}"
    )


def _remover(name: str) -> None:
    """Show the button that removes an added model, which asks first."""
    refusal = roots.refusal_to_add()
    copied = not Card.read(added()[name]).weights
    with st.popover("Remove", icon=":material/delete:", disabled=bool(refusal), help=refusal or None):
        st.caption(
            f"Remove {plain(name)} from this server, for everyone. {'Its weights are deleted.' if copied else 'Its weights stay where they are.'}"
        )
        st.button(f"Remove {plain(name)}", key="l_remove", on_click=_remove, args=(name,), icon=":material/delete:", type="primary")


def _remove(name: str) -> None:
    try:
        if not roots.refusal_to_add():
            remove_model(name)
    except AttrlibError as error:
        st.session_state.l_problems = [*st.session_state.l_problems, str(error)]


def _row(info: ModelInfo, card: Card | None) -> dict[str, object]:
    if card is None:
        architecture, _, rest = info.note.partition(" on ")
        return {"model": info.name, "architecture": architecture, "trained on": rest.partition(",")[0]}
    where = {"added": "yes"} if info.source == "added" else {}
    means = {what: card.accuracy.get(what, {}).get("mean") for what in ("clean", "deleted")}
    return {
        "model": info.name,
        "architecture": card.architecture.removeprefix("attrlib:"),
        "trained on": card.data,
        "parameters (M)": card.parameters / 1e6,
        **{what: None if mean is None else 100 * mean for what, mean in means.items()},
        "deletion-tuned": card.deletion is not None,
        **where,
    }


def _accuracy(found: Any) -> str:
    if not isinstance(found, dict) or "mean" not in found:
        return ""
    interval = f" [{100 * found['low']:.1f} %, {100 * found['high']:.1f} %]" if {"low", "high"} <= set(found) else ""
    return plain(f"{100 * found['mean']:.1f} %{interval}")


def _facts(card: Card) -> list[dict[str, str]]:
    own = card.preprocessing
    tuned = "no" if card.deletion is None else ", ".join(f"{k}={v}" for k, v in card.deletion.items())
    facts = {
        "architecture": card.architecture,
        "parameters": f"{card.parameters:,}",
        "classes": str(len(card.class_names)),
        "outputs": card.outputs,
        "trained on": card.data,
        "deletion-tuned": tuned,
        "counterpart": card.pair or "none",
        "input": f"{own.size[0]} × {own.size[1]} px, {own.interpolation}, crop {own.crop:g}, {own.fit}, mean {numbers_text(own.mean)}, std {numbers_text(own.std)}",
        "recipe": ", ".join(f"{k}={v}" for k, v in card.recipe.items()),
        "epochs, seed": f"{card.epoch}, {card.seed}",
        "weights": card.weights or card.digest,
    }
    return [{"property": name, "value": value} for name, value in facts.items()]


def _search() -> None:
    st.markdown("##### Architectures of timm and torchvision")
    pattern = st.text_input(
        "Search", key="l_pattern", persist_state="session", placeholder="timm:resnet*", help="* matches any text. Examples: torchvision:vgg*, timm:*vit_tiny*, attrlib:*.",
    ).strip()  # fmt: skip
    if not pattern:
        st.caption("Search by pattern, for example `timm:resnet*`. On other pages, type a name into Model.")
        return
    found = list_models(pattern if "*" in pattern else f"*{pattern}*")
    if not found:
        st.info(f"No model matches {plain(pattern[:60])}. Try a wider pattern, such as timm:\\*resnet\\*.", icon=":material/search_off:")
        return
    st.caption(f"{len(found)} match" + (f"; the first {SHOWN} are listed" if len(found) > SHOWN else ""))
    rows = [{"name": info.name, "source": info.source, "note": info.note} for info in found[:SHOWN]]
    st.dataframe(rows, hide_index=True, width="stretch", height="auto", key="l_found")


def _published() -> None:
    st.markdown(f"##### The {len(PUBLISHED)} published checkpoints of IDSDS")
    st.caption(
        "ImageNet models fine-tuned on images with deleted patches, as IDSDS requires, published by [Hesse et al. 2024](https://arxiv.org/abs/2407.11910). "
        "They are downloaded only on request."
    )
    # Verifying a downloaded file reads all of it, the first time.
    looking = queue("store").submit(digest("checkpoints", int(time.time() / FRESH)), lambda _progress: frozenset(filter(_here, PUBLISHED)))
    here = job_status.wait_for(looking, "Looking for downloaded checkpoints") or frozenset()
    rows = [
        {"model": f"idsds:{name}", "downloaded": name in here, "file": own.url, "load": f'attrlib.load_model("idsds:{name}")'}
        for name, own in PUBLISHED.items()
    ]
    columns = {
        "downloaded": st.column_config.CheckboxColumn(width="small"),
        "file": st.column_config.LinkColumn(display_text=r".*/([^/]+)$"),
    }
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=columns, key="l_published")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        name = st.selectbox("Checkpoint", list(PUBLISHED), key="l_checkpoint", persist_state="session", width=220)
        job = queue("downloads").find(name)
        st.button(
            "Download", on_click=_fetch, args=(name,), icon=":material/download:", disabled=name in here or (job is not None and not job.ended), key="l_download",
            help="Downloads the file (45 MB to 1.7 GB) to the cache folder of this server.",
        )  # fmt: skip
    if job is not None:
        poll("l_download_waits", lambda: _download(name))
    st.caption("Load a downloaded checkpoint by name, or pass a file that you already have:")
    st.code(
        f'model = attrlib.load_model("idsds:{name}")  # after python -m attrlib download idsds:{name}\n'
        f'model = attrlib.load_model("idsds:{name}", checkpoint="{PUBLISHED[name].url.rsplit("/", 1)[1]}")',
        language="python",
        wrap_lines=True,
    )


def _here(name: str) -> bool:
    try:
        return downloaded(name) is not None
    except (AttrlibError, OSError):
        return False


def _fetch(name: str) -> None:
    jobs.restart(queue("downloads"), name, lambda on_progress: download(f"idsds:{name}", on_progress))


def _download(name: str) -> bool:
    """Show the download; return whether it is in progress."""
    job: Job | None = queue("downloads").find(name)
    if job is None:
        return False
    if job_status.waits_for(job, f"{size(job.done)} of {size(job.total)}"):
        return True
    if job.state is State.DONE:
        st.success(f"idsds\\:{plain(name)} is downloaded.", icon=":material/check:")
    return False
