"""Tiles of equal size, each with one map and its facts, or a placeholder of the same layout while the map is missing."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import streamlit as st
from PIL import Image
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.engine.explain import tile
from attrlib.engine.jobs import Job, State
from attrlib.figures.colours import css_gradient
from attrlib.figures.overlay import colour_map, draw, encode
from attrlib.figures.panel import Tile, limits
from attrlib.models import Preprocessing
from attrlib.specs import MethodSpec, ViewSpec, digest
from pages.shared import job_status
from pages.shared.classes import Reading
from pages.shared.jobs import sentence
from pages.shared.times import duration

CONVERGENCE_WARNING = 0.05
LINE = "1.5rem"
"""Height of a line in the list of classes, and of the button beside it with its margin."""
_BUTTONS = f"""
.st-key-rather {{ margin-top: -.35rem; }}
.st-key-rather button {{ height: 1.2rem; min-height: 1.2rem; margin-bottom: calc({LINE} - 1.2rem); padding: 0 .4rem; }}
.st-key-rather button:disabled {{ visibility: hidden; }}
.st-key-rather button p {{ font-size: .75rem; }}
"""
"""The button of the explained class only keeps its place."""


_THIRD = '<small data-testid="tile-target" title="{0}" style="display:block;opacity:.7;white-space:nowrap;overflow:hidden;text-overflow:ellipsis">{0}</small>'


@dataclass(frozen=True)
class Slot:
    """A place in the grid: the method and the job that computes its map, or the reason why there is no map.

    `explained` is the target of the method in words; it is empty for the logit.
    """

    method: MethodSpec
    job: Job | None
    refusal: str = ""
    explained: str = ""

    @property
    def done(self) -> bool:
        """Return whether the map is ready."""
        return self.job is not None and self.job.state is State.DONE

    @property
    def ended(self) -> bool:
        """Return whether nothing is pending: the job has ended or there is none."""
        return self.job is None or self.job.ended


@dataclass(frozen=True, eq=False)
class Rather:
    """The choice of another class, to explain why the model sees the one rather than the other.

    Attributes:
        target: Index of the explained class.
        other: Index of the class that it is compared with at present, or None.
        choose: Called with the index of a class that was clicked.
    """

    target: int
    other: int | None
    choose: Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Strip:
    """The tiles of one model: the photo as the model sees it with its most probable classes, and one slot per method."""

    name: str
    photo: Image.Image
    title: str
    top: Mapping[int, Reading]
    slots: list[Slot]
    rather: Rather | None = None


def show_strips(strips: Sequence[Strip], view: ViewSpec, in_threes: bool = False) -> None:
    """Show each strip's photo, then its tiles, on a grid that wraps; with `in_threes`, rows of three tiles beside the photo.

    Every tile has the same four parts in every state. If a method explains another target than the logit, all have a line for the target.
    """
    targets = any(slot.explained for strip in strips for slot in strip.slots)
    done = [(k, i) for k, strip in enumerate(strips) for i, slot in enumerate(strip.slots) if slot.done]
    drawn = [_tile(strips[k].slots[i], view) for k, i in done]
    tiles = {place: (tile, scale) for place, tile, scale in zip(done, drawn, limits(drawn, view), strict=True)}
    for k, strip in enumerate(strips):
        several = 3 if in_threes else max(1, len(strip.slots))
        for first in range(0, max(1, len(strip.slots)), several):
            grid = st.grid(4 if in_threes else "auto", min_column_width=165, gap="small", key=f"tiles-{k}-{first}")
            with grid.cell():
                _show_photo(strip, targets, with_classes=first == 0)
            for i, slot in list(enumerate(strip.slots))[first : first + several]:
                with grid.cell():
                    if (k, i) in tiles:
                        _show(slot, *tiles[k, i], strip.photo, view, targets)
                    else:
                        _show_blank(slot, strip.photo, targets)
    if view.scale == "shared" and tiles:
        with st.container(width=420):
            st.html(legend(view, next(iter(tiles.values()))[1]))


def _show_photo(strip: Strip, targets: bool, with_classes: bool) -> None:
    head(strip.name, strip.title, "" if targets else None)
    alt = f"The photo as the model sees it, explained for {strip.title}"
    st.image(_photo(digest(strip.photo.tobytes()), strip.photo), width="stretch", alt=alt)
    if with_classes:
        if strip.rather is None:
            st.html(bars(strip.top.values()))
        else:
            _show_classes(strip.top, strip.rather)


def _show_classes(top: Mapping[int, Reading], rather: Rather) -> None:
    """Show the classes with their probabilities, and beside each other one a button to explain the class rather than that one."""
    name = top[rather.target].name if rather.target in top else "this class"
    st.html(f"<style>{_BUTTONS}</style>")
    with st.container(horizontal=True, gap="xxsmall"):
        st.html(bars(top.values()), width="stretch")
        with st.container(gap=None, width="content", key="rather"):
            for index, each in top.items():
                own, active = index == rather.target, index == rather.other
                hint = None if own else f"Explained: {name} rather than {each.name}" if active else f"Why {name} rather than {each.name}?"
                if st.button("vs", key=f"rather-{index}", help=hint, disabled=own, type="primary" if active else "tertiary"):
                    rather.choose(index)


def _tile(slot: Slot, view: ViewSpec) -> Tile:
    assert slot.job is not None
    shown = tile(slot.job.result, view)
    seconds = slot.job.result.seconds
    # The time is unknown for a map that was computed on another device.
    return shown if math.isnan(seconds) else replace(shown, subtitle=f"{shown.subtitle} · {duration(seconds)}")


@st.cache_data(max_entries=32, show_spinner=False)
def picture(image_digest: str, preprocessing: Preprocessing, _photo: Photo) -> Image.Image:
    """Return the photo as the model sees it at twice the resolution, cached across slider moves and polls."""
    return preprocessing.view(_photo, scale=2)


def _show(slot: Slot, tile: Tile, top: float, photo: Image.Image, view: ViewSpec, targets: bool) -> None:
    assert slot.job is not None
    head(tile.title, tile.subtitle, slot.explained if targets else None)
    if tile.defect is not None:
        st.image(blank(photo.size), width="stretch", alt=f"No map: {tile.defect}")
        st.caption(f":material/block: {tile.defect}")
        st.empty()
        return
    key = f"{slot.job.key} {photo.size}"
    st.image(_overlay(key, tile.values, photo, view, top), width="stretch", alt=f"{tile.title} at {slot.method.layer} over the photo")
    if view.scale == "shared":
        st.empty()
    else:
        st.html(legend(view, top))
    _badge(slot.job.result.diagnostics)


def _badge(diagnostics: Mapping[str, tuple[float, ...]]) -> None:
    if "convergence" not in diagnostics:
        st.empty()
        return
    error = diagnostics["convergence"][0]
    hint = "Difference between the sum of the map and f(x) - f(baseline), relative to the latter. More steps reduce it."
    text = f"convergence error {100 * error:.1f} %"
    st.caption(f":orange[:material/warning: {text}: take more steps]" if error > CONVERGENCE_WARNING else text, help=hint)


def _show_blank(slot: Slot, photo: Image.Image, targets: bool) -> None:
    job = slot.job
    head(slot.method.name, slot.method.layer, slot.explained if targets else None)
    st.image(blank(photo.size), width="stretch", alt="No map yet")
    if job is not None:
        job_status.waits_for(job, small=True)
    else:
        st.caption(f":material/block: {sentence(slot.refusal)}")
        st.empty()


def head(title: str, line: str, target: str | None = None) -> None:
    """Show a title with a line below it, and one for the target unless that is None. The last one is cut off rather than wrapped."""
    third = "" if target is None else _THIRD.format(escape(target) or "&nbsp;")
    st.html(
        f'<div style="line-height:1.3;overflow-wrap:anywhere"><b data-testid="tile-title">{escape(title)}</b><br>'
        f'<small data-testid="tile-line" style="opacity:.7">{escape(line)}</small>{third}</div>'
    )


def figure(title: str, line: str, image: Image.Image, alt: str) -> None:
    """Show a picture as a tile: title, a line below it, and a text alternative."""
    head(title, line)
    st.image(encode(image), width="stretch", alt=alt)


def legend(view: ViewSpec, top: float) -> str:
    """Return the colour bar with the magnitudes of its colours."""
    high = f"{top:.0f}" if 100 <= top < 1e5 else f"{top:.2g}"
    return colour_bar(colour_map(view), (f"−{high}", "0", high) if view.sign == "signed" else ("0", high))


def colour_bar(colours: str, labels: Sequence[str]) -> str:
    """Return the HTML of a colour map, named as in `ViewSpec`, with labels below it."""
    texts = "".join(f"<span>{escape(label)}</span>" for label in labels)
    return (
        f'<div style="height:.45rem;border-radius:2px;background:{css_gradient(colours)}"></div>'
        f'<div style="display:flex;justify-content:space-between;font-size:.75rem;opacity:.7">{texts}</div>'
    )


def bars(top: Iterable[Reading]) -> str:
    """Return the HTML of a model's readings, with a bar for each probability. All lines have the height `LINE`."""
    top = list(top)
    label = "Most probable classes" if all(each.is_probability for each in top) else "Numbers"
    return f'<div role="list" aria-label="{label}" style="font-size:.8rem;line-height:1.25">{"".join(map(_bar, top))}</div>'


def _bar(reading: Reading) -> str:
    name = f'<span title="{escape(reading.name)}" style="overflow:hidden;text-overflow:ellipsis">{escape(reading.name)}</span>'
    line = f'<div style="display:flex;justify-content:space-between;gap:.5rem;white-space:nowrap">{name}<span>{escape(reading.text)}</span></div>'
    width = f"{max(reading.value, 0.005):.1%}"
    bar = f'<div style="height:.2rem;width:{width};background:currentColor;opacity:.55"></div>' if reading.is_probability else ""
    return f'<div role="listitem" style="height:{LINE}">{line}{bar}</div>'


@st.cache_data(max_entries=256, show_spinner=False)
def _overlay(key: str, _values: Tensor, _photo: Image.Image, view: ViewSpec, top: float) -> bytes:
    return encode(draw(_values, _photo, view, top))


@st.cache_data(max_entries=64, show_spinner=False)
def _photo(key: str, _image: Image.Image) -> bytes:
    return encode(_image)


@st.cache_data(max_entries=8, show_spinner=False)
def blank(size: tuple[int, int]) -> bytes:
    """Return a grey picture for a tile that is not ready, or has none."""
    return encode(Image.new("RGBA", size, (128, 132, 138, 40)), "PNG")
