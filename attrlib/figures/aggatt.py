"""AggAtt figures as in the paper: bins in the middle, best examples left, worst right, with the target cell outlined."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attrlib.binning import CLIP, SHARES, Aggregate
from attrlib.figures.overlay import draw, limit
from attrlib.figures.panel import write as write_line
from attrlib.postprocess import apply_sign
from attrlib.specs import ViewSpec

SIDE = 224
EXAMPLES = 3
_INK, _FAINT, _PAPER, _BLANK = (25, 28, 33), (105, 112, 122), (255, 255, 255), (232, 234, 237)
_GAP, _LINE, _TILE, _APART = 8, 22, 128, 28


@dataclass(frozen=True, eq=False)
class Sample:
    """One item of a bin: its picture, its signed map (H,W), and its score."""

    picture: Image.Image
    values: Tensor
    score: float


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One row of the panel: title, second line, bins, and examples of the first and last non-empty bins."""

    title: str
    subtitle: str
    aggregate: Aggregate
    best: Sequence[Sample] = ()
    worst: Sequence[Sample] = ()

    @property
    def nbytes(self) -> int:
        """Return the size of the row's bins and examples in bytes."""
        return self.aggregate.nbytes + sum(s.values.nbytes + 3 * s.picture.width * s.picture.height for s in (*self.best, *self.worst))


def bin_names() -> list[str]:
    """Return the name of each bin, best maps first, such as `0–2 %`."""
    percent = [f"{100 * share:g}" for share in SHARES]
    return [f"{first}–{last} %" for first, last in pairwise(percent)]


def draw_bin(aggregate: Aggregate, number: int, view: ViewSpec, side: int = SIDE) -> Image.Image:
    """Draw one bin on the scale that all bins share, with the target cell outlined; an empty bin is a grey square.

    Args:
        aggregate: The bins.
        number: Index of the bin.
        view: Colours and sign; opacity is ignored.
        side: Width and height in pixels.
    """
    values = aggregate.bins[number, 0]
    if not bool(values.isfinite().all()):
        return Image.new("RGB", (side, side), _BLANK)
    picture = draw(values, Image.new("RGB", (side, side)), replace(view, opacity=1.0), aggregate.scale)
    return outlined(picture, aggregate.target_cell, aggregate.grid)


def draw_sample(sample: Sample, view: ViewSpec, cell: int, grid: int, side: int = SIDE) -> Image.Image:
    """Draw an item's map over its greyed picture, on its own scale, with the target cell outlined.

    Args:
        sample: The item.
        view: Colours, sign and opacity.
        cell: Index of the target cell, row by row, from 0.
        grid: Grid cells per side.
        side: Width and height in pixels.
    """
    values = apply_sign(sample.values, view.sign)
    photo = sample.picture.resize((side, side), Image.Resampling.BILINEAR)
    return outlined(draw(values, photo, view, limit([values], 100 * CLIP)), cell, grid)


def outlined(picture: Image.Image, cell: int, grid: int) -> Image.Image:
    """Outline a grid cell in dark on white, which is visible on every colour map. A single image stays unchanged.

    Args:
        picture: The picture, which is drawn on in place.
        cell: Index of the cell, row by row, from 0.
        grid: Grid cells per side; 1 for a single image.
    """
    if grid == 1:
        return picture
    pen, (row, column) = ImageDraw.Draw(picture), divmod(cell, grid)
    left, top = round(column * picture.width / grid), round(row * picture.height / grid)
    right, bottom = round((column + 1) * picture.width / grid) - 1, round((row + 1) * picture.height / grid) - 1
    width = max(3, picture.width // 56)
    pen.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=width)
    pen.rectangle(
        (left + width // 3, top + width // 3, right - width // 3, bottom - width // 3), outline=(20, 20, 20), width=max(1, width // 3)
    )
    return picture


def mosaic(pictures: Sequence[Image.Image], side: int = SIDE, gap: int = 4) -> Image.Image:
    """Arrange up to four pictures in a square, transparent where one is missing. A single picture fills the square.

    Args:
        pictures: The pictures; any after the fourth are ignored.
        side: Width and height of the square in pixels.
        gap: Pixels between pictures.
    """
    if len(pictures) == 1:
        return pictures[0].resize((side, side), Image.Resampling.BILINEAR)
    sheet = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    small = (side - gap) // 2
    for k, picture in enumerate(pictures[:4]):
        sheet.paste(picture.resize((small, small), Image.Resampling.BILINEAR), (k % 2 * (small + gap), k // 2 * (small + gap)))
    return sheet


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, bold: bool = False) -> None:
    # Pillow's built-in font has Latin letters only.
    write_line(pen, corner, text.translate({ord("–"): "-", ord("×"): "x"}), width, bold)


def panel(lines: Sequence[PanelRow], view: ViewSpec) -> Image.Image:
    """Draw all rows as one picture, with each bin's share of the maps above it, and its number of maps below."""
    names, count = bin_names(), EXAMPLES
    starts = [k * (_TILE + _GAP) for k in range(count)]
    bins = [starts[-1] + _TILE + _APART + k * (_TILE + _GAP) for k in range(len(names))]
    ends = [bins[-1] + _TILE + _APART + k * (_TILE + _GAP) for k in range(count)]
    height = 2 * _LINE + _TILE + 3 * _GAP
    sheet = Image.new("RGB", (ends[-1] + _TILE + 2 * _GAP, _LINE + len(lines) * height + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    heads = [(starts[0], "best examples"), *zip(bins, names, strict=True), (ends[0], "worst examples")]
    for x, text in heads:
        _write(pen, (_GAP + x, _GAP), text, (count if "examples" in text else 1) * (_TILE + _GAP), bold=True)
    for number, line in enumerate(lines):
        top = _LINE + _GAP + number * height
        room = ends[-1] + _TILE
        _write(pen, (_GAP, top), line.title, room, bold=True)
        _write(pen, (_GAP + round(pen.textlength(line.title, ImageFont.load_default(16))) + 12, top + 1), line.subtitle, room)
        aggregate = line.aggregate
        for places, samples in ((starts, line.best), (ends, line.worst)):
            for x, sample in zip(places, samples, strict=False):
                sheet.paste(draw_sample(sample, view, aggregate.target_cell, aggregate.grid, _TILE), (_GAP + x, top + _LINE))
                _write(pen, (_GAP + x, top + _LINE + _TILE + 2), f"{sample.score:.2f}", _TILE)
        for number_of_bin, x in enumerate(bins):
            sheet.paste(draw_bin(aggregate, number_of_bin, view, _TILE), (_GAP + x, top + _LINE))
            _write(pen, (_GAP + x, top + _LINE + _TILE + 2), f"n = {aggregate.sizes[number_of_bin]}", _TILE)
    return sheet
