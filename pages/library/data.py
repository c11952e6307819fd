"""Data sets of the library: facts about each, and a few pictures, opened on request."""

from dataclasses import dataclass

import streamlit as st
from PIL import ImageOps

from attrlib.data.datasets import NAMED, Dataset, DatasetInfo, list_datasets
from attrlib.data.images import KINDS
from attrlib.engine.jobs import Job, queue
from attrlib.errors import ImageError
from attrlib.figures.overlay import encode
from attrlib.progress import NewsProgress
from attrlib.specs import digest
from pages.shared import job_status, notices
from pages.shared.jobs import plain
from pages.shared.polling import poll
from pages.shared.roots import load_data

COUNT = 6
SIDE = 240


@dataclass(frozen=True, eq=False)
class Strip:
    """A few pictures of a data set as shown, with their classes, and what the data set says of itself."""

    pictures: tuple[tuple[bytes, str], ...]
    description: str
    notes: tuple[str, ...]


def show() -> None:
    """Show the named data sets, then a chooser for any folder."""
    state = st.session_state
    state.setdefault("l_opened", [])
    for info in list_datasets():
        with st.container(border=True, key=f"l_data_{info.name}"):
            _head(info)
            _strip(info.name)
    st.markdown("##### Another folder")
    source = st.text_input(
        "Folder or CSV file",
        key="l_folder",
        persist_state="session",
        placeholder="/data/my_images",
        help="A folder on this server: with class folders, with images, or with images/ and masks/; or a CSV file with columns file,label.",
    ).strip()
    if source:
        _strip(source)


def _head(info: DatasetInfo) -> None:
    facts = [f"{info.count:,} images"] if info.count is not None else []
    facts += [f"{info.classes} classes"] if info.classes is not None else []
    facts += ["labels"] if info.labelled else []
    facts += ["masks"] if info.masks else []
    st.markdown(f"**{plain(info.name)}** &nbsp; {plain(info.summary)}  \n:gray[{', '.join(facts)}]")


def _strip(source: str) -> None:
    """Show the pictures once they are requested: opening a data set may take time, and some are downloaded first."""
    if source not in st.session_state.l_opened:
        st.button(
            "Show images",
            key=f"l_show_{source}",
            on_click=_open,
            args=(source,),
            icon=":material/photo_library:",
            help="Opens the data set, after downloading it if necessary.",
        )
        return
    poll(f"l_waits_{source}", lambda: _pictures(source))


def _open(source: str) -> None:
    st.session_state.l_opened = [*st.session_state.l_opened, source]


def _job(source: str) -> Job:
    return queue("data").submit(digest("strip", source), lambda on_progress: _look(source, on_progress))


def _look(source: str, on_progress: NewsProgress) -> Strip:
    on_progress(0, 0)
    data = load_data(source)
    pictures: list[tuple[bytes, str]] = []
    for index in data.order(0)[: 3 * COUNT]:
        if len(pictures) == COUNT:
            break
        on_progress(len(pictures), COUNT)
        try:
            picture = ImageOps.fit(data[index].image, (SIDE, SIDE))
        except ImageError:
            continue
        pictures.append((encode(picture), _class(data, index)))
    return Strip(tuple(pictures), data.describe(), data.notes)


def _class(data: Dataset, index: int) -> str:
    return ", ".join(data.class_names[label] for label in data.labels(index)) or "no class"


def _pictures(source: str) -> bool:
    """Show the pictures; return whether they are pending."""
    job = _job(source)
    if job_status.waits_for(job, "opening or downloading"):
        return True
    strip: Strip | None = job.result
    if strip is None:
        return False
    grid = st.grid(min_column_width=110, gap="small", key=f"l_strip_{source}")
    for picture, name in strip.pictures:
        with grid.cell():
            st.image(picture, width="stretch", alt=f"A picture of {source}: {name}")
            st.caption(plain(name))
    if source not in NAMED:
        st.caption(strip.description)
    notices.notes(strip.notes)
    if not strip.pictures:
        st.info(f"None of the first images can be read. Save them as {KINDS} files.", icon=":material/broken_image:")
    return False
