"""Grids of pictures: which grid cells the model sees, and attribution that is impossible by construction."""

import numpy as np
from PIL import Image, ImageEnhance
from torch import Tensor

from attrlib.figures.aggatt import outlined
from attrlib.figures.deletion import NEXT
from attrlib.postprocess import resize

FAINTEST = 0.03
"""Smallest share of the extreme colour at which impossible attribution is marked. Less is not visible."""


def draw_seen(picture: Image.Image, cell: int, grid: int, cut_off: float) -> Image.Image:
    """Draw the grid with the target's cell outlined and the other cells faded.

    Args:
        picture: The grid.
        cell: Index of the target's cell, row by row, from 0.
        grid: Grid cells per side.
        cut_off: How far the other cells are hidden from the model, from 0 (seen like the target's) to 1 (not seen).
    """
    faded = ImageEnhance.Color(picture).enhance(1 - cut_off)
    faded = Image.blend(faded, Image.new("RGB", picture.size, (128, 132, 138)), 0.8 * cut_off)
    row, column = divmod(cell, grid)
    width, height = picture.width // grid, picture.height // grid
    box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
    faded.paste(picture.crop(box), box[:2])
    return outlined(faded, cell, grid)


def mark_impossible(drawn: Image.Image, outside: Tensor, top: float) -> Image.Image:
    """Mark impossible attribution on a drawn map with pink and black stripes, a pattern that no colour map contains.

    Args:
        drawn: The drawn map.
        outside: Attribution (H,W) outside the target's cell, where it is impossible.
        top: Magnitude of the extreme colour. Attribution below the share `FAINTEST` of it is not marked.
    """
    values = resize(outside[None, None].float(), (drawn.height, drawn.width))[0, 0].abs().numpy()
    rows, columns = np.indices(values.shape)
    period = max(8, drawn.width // 36)
    place = (rows + columns) % period
    sheet = np.asarray(drawn).copy()
    marked = values > FAINTEST * top if top else np.zeros_like(values, dtype=bool)
    sheet[marked & (place < period // 2)] = NEXT
    sheet[marked & (place == period // 2)] = (20, 20, 20)
    return Image.fromarray(sheet)
