"""Panel for download: the photo and its maps side by side, with titles and scales."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attrlib.figures.colours import table
from attrlib.figures.overlay import colour_map, draw, limit
from attrlib.specs import ViewSpec

_INK, _FAINT, _PAPER, _BLANK = (25, 28, 33), (105, 112, 122), (255, 255, 255), (232, 234, 237)
_GAP, _LINE = 16, 22


@dataclass(frozen=True)
class Tile:
    """One map of a panel: title, second line, the prepared map (h,w), and the reason if it is blank."""

    title: str
    subtitle: str
    values: Tensor
    defect: str | None = None


def limits(tiles: Sequence[Tile], view: ViewSpec) -> list[float]:
    """Return the magnitude of the extreme colour of each tile: its own, or a shared one, depending on the view."""
    shown = [t.values for t in tiles if t.defect is None]
    if view.scale == "shared" and shown:
        return [limit(shown, view.clip)] * len(tiles)
    return [limit([t.values], view.clip) for t in tiles]


def panel(photo: Image.Image, title: str, tiles: Sequence[Tile], view: ViewSpec, columns: int = 5) -> Image.Image:
    """Draw the photo and the tiles as one picture. Every tile has the photo's size, its title above and its scale below.

    Args:
        photo: The photo, which comes first.
        title: Title above the photo.
        tiles: The maps.
        view: Colours, sign, opacity and scale.
        columns: Pictures per row.
    """
    width, height = photo.size
    count = len(tiles) + 1
    columns = min(columns, count)
    rows = -(-count // columns)
    cell = (width + _GAP, height + 3 * _LINE + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    corners = [(_GAP + (i % columns) * cell[0], _GAP + (i // columns) * cell[1]) for i in range(count)]
    write(pen, corners[0], "Photo", width, bold=True)
    write(pen, (corners[0][0], corners[0][1] + _LINE), title, width)
    sheet.paste(photo, (corners[0][0], corners[0][1] + 2 * _LINE))
    for (x, y), tile, top in zip(corners[1:], tiles, limits(tiles, view), strict=True):
        write(pen, (x, y), tile.title, width, bold=True)
        write(pen, (x, y + _LINE), tile.subtitle, width)
        below = y + 2 * _LINE + height + 4
        if tile.defect is not None:
            sheet.paste(_BLANK, (x, y + 2 * _LINE, x + width, y + 2 * _LINE + height))
            write(pen, (x, below), tile.defect, width)
            continue
        sheet.paste(draw(tile.values, photo, view, top), (x, y + 2 * _LINE))
        _scale(sheet, pen, (x, below), width, view, top)
    return sheet


def _scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, view: ViewSpec, top: float) -> None:
    x, y = corner
    low, high = (f"{-top:.2g}" if view.sign == "signed" else "0"), f"{top:.2g}"
    if width <= 120:
        write(pen, corner, f"{low} … {high}", width)
        return
    margin = 60
    bar = Image.fromarray(table(colour_map(view))[None]).resize((width - 2 * margin, 8))
    sheet.paste(bar, (x + margin, y + 5))
    font = ImageFont.load_default(13)
    pen.text((x + margin - 6, y + 9), low, _FAINT, font, anchor="rm")
    pen.text((x + width - margin + 6, y + 9), high, _FAINT, font, anchor="lm")


def write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, bold: bool = False) -> None:
    """Write a line of text, cut off with an ellipsis if it is wider than `width`.

    Args:
        pen: What to draw with.
        corner: Top left corner (x, y) in pixels.
        text: The text.
        width: Largest width in pixels.
        bold: Whether to write the text as a heading.
    """
    font = ImageFont.load_default(16 if bold else 14)
    # Pillow's built-in font has no multiplication sign.
    text = " ".join(text.replace("×", "x").split())
    while len(text) > 1 and pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…"
    pen.text(corner, text, _INK if bold else _FAINT, font)
