"""Grids of pictures: which cells the model sees, and attribution where by construction there can be none."""

import numpy as np
from PIL import Image, ImageEnhance
from torch import Tensor

from attrlib.figures.aggatt import outlined
from attrlib.figures.deletion import NEXT
from attrlib.postprocess import resize

FAINTEST = 0.03
"""Share of the extreme colour from which impossible attribution is marked: less cannot be seen either."""


def draw_seen(picture: Image.Image, cell: int, grid: int, cut_off: float) -> Image.Image:
    """The grid with the target's cell outlined and the others faded by `cut_off`: 0 they count as it does, 1 they are not seen at all."""
    faded = ImageEnhance.Color(picture).enhance(1 - cut_off)
    faded = Image.blend(faded, Image.new("RGB", picture.size, (128, 132, 138)), 0.8 * cut_off)
    row, column = divmod(cell, grid)
    width, height = picture.width // grid, picture.height // grid
    own = (column * width, row * height, (column + 1) * width, (row + 1) * height)
    faded.paste(picture.crop(own), own[:2])
    return outlined(faded, cell, grid)


def mark_impossible(drawn: Image.Image, outside: Tensor, top: float) -> Image.Image:
    """A drawn map with stripes where `outside` (H,W) has attribution: pink on black, told from every colour map also by their pattern.

    `top` is the magnitude of the extreme colour; what is fainter than `FAINTEST` of it is left unmarked.
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
