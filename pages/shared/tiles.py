"""Tiles of equal size, each with one map and its facts, or a placeholder of the same layout while the map is missing."""

import math
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Slot:
    """A place in the grid: the method and the job that computes its map, or the reason why there is no map."""

    method: MethodSpec
    job: Job | None
    refusal: str = ""

    @property
    def done(self) -> bool:
        """Return whether the map is ready."""
        return self.job is not None and self.job.state is State.DONE

    @property
    def ended(self) -> bool:
        """Return whether nothing is pending: the job has ended or there is none."""
        return self.job is None or self.job.ended


@dataclass(frozen=True, eq=False)
class Strip:
    """The tiles of one model: the photo as the model sees it with its most probable classes, and one slot per method."""

    name: str
    photo: Image.Image
    title: str
    top: list[Reading]
    slots: list[Slot]


def show_strips(strips: Sequence[Strip], view: ViewSpec, in_threes: bool = False) -> None:
    """Show each strip's photo, then its tiles, on a grid that wraps; with `in_threes`, rows of three tiles beside the photo.

    Every tile has the same four parts in every state.
    """
    done = [(k, i) for k, strip in enumerate(strips) for i, slot in enumerate(strip.slots) if slot.done]
    drawn = [_tile(strips[k].slots[i], view) for k, i in done]
    tiles = {place: (tile, scale) for place, tile, scale in zip(done, drawn, limits(drawn, view), strict=True)}
    for k, strip in enumerate(strips):
        several = 3 if in_threes else max(1, len(strip.slots))
        for first in range(0, max(1, len(strip.slots)), several):
            grid = st.grid(4 if in_threes else "auto", min_column_width=165, gap="small", key=f"tiles-{k}-{first}")
            with grid.cell():
                _show_photo(strip, with_classes=first == 0)
            for i, slot in list(enumerate(strip.slots))[first : first + several]:
                with grid.cell():
                    if (k, i) in tiles:
                        _show(slot, *tiles[k, i], strip.photo, view)
                    else:
                        _show_blank(slot, strip.photo)
    if view.scale == "shared" and tiles:
        with st.container(width=420):
            st.html(legend(view, next(iter(tiles.values()))[1]))


def _show_photo(strip: Strip, with_classes: bool) -> None:
    head(strip.name, strip.title)
    alt = f"The photo as the model sees it, explained for {strip.title}"
    st.image(_photo(digest(strip.photo.tobytes()), strip.photo), width="stretch", alt=alt)
    if with_classes:
        st.html(bars(strip.top))


def _tile(slot: Slot, view: ViewSpec) -> Tile:
    assert slot.job is not None
    shown = tile(slot.job.result, view)
    seconds = slot.job.result.seconds
    # Unknown for a map that was computed on another device.
    return shown if math.isnan(seconds) else replace(shown, subtitle=f"{shown.subtitle} · {duration(seconds)}")


@st.cache_data(max_entries=32, show_spinner=False)
def picture(image_digest: str, preprocessing: Preprocessing, _photo: Photo) -> Image.Image:
    """Return the photo as the model sees it at twice the resolution, cached across slider moves and polls."""
    return preprocessing.view(_photo, scale=2)


def _show(slot: Slot, tile: Tile, top: float, photo: Image.Image, view: ViewSpec) -> None:
    assert slot.job is not None
    head(tile.title, tile.subtitle)
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


def _show_blank(slot: Slot, photo: Image.Image) -> None:
    job = slot.job
    head(slot.method.name, slot.method.layer)
    st.image(blank(photo.size), width="stretch", alt="No map yet")
    if job is not None:
        job_status.waits_for(job, small=True)
    else:
        st.caption(f":material/block: {sentence(slot.refusal)}")
        st.empty()


def head(title: str, line: str) -> None:
    """Show a title with a line below it."""
    st.html(
        f'<div style="line-height:1.3;overflow-wrap:anywhere"><b data-testid="tile-title">{escape(title)}</b><br>'
        f'<small data-testid="tile-line" style="opacity:.7">{escape(line)}</small></div>'
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


def bars(top: Sequence[Reading]) -> str:
    """Return the HTML of a model's readings, with a bar for each probability."""
    rows = [
        f'<div style="display:flex;justify-content:space-between;gap:.5rem"><span>{escape(each.name)}</span><span>{escape(each.text)}</span></div>'
        + (
            f'<div style="height:.2rem;margin-bottom:.2rem;width:{max(each.value, 0.005):.1%};background:currentColor;opacity:.55"></div>'
            if each.is_probability
            else ""
        )
        for each in top
    ]
    label = "Most probable classes" if all(each.is_probability for each in top) else "Predicted numbers"
    return f'<div role="list" aria-label="{label}" style="font-size:.8rem;line-height:1.25">{"".join(rows)}</div>'


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
