"""Scenes: a bird in front of a background, drawn with or without any of its parts and of the objects of the background."""

import operator
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from attrlib.data.birds.backdrop import OBJECTS, Backdrop
from attrlib.data.birds.classes import CODE, PARTS
from attrlib.data.birds.pose import BODY, Bird
from attrlib.data.birds.raster import Stamp, coverage, paint
from attrlib.errors import DataError, unknown
from attrlib.specs import digest

VERSION = 1
"""Version of the drawings. Increased when pixels change, which changes the digests of all items."""
SIZES = {"train": 20_000, "select": 1_000, "test": 1_000}
"""Number of pictures in each split, with equally many of each class."""
SIZE = 128
"""Default side of a picture, in pixels."""
SMALLEST, LARGEST = 16, 2048


def scene_id(split: str, index: int) -> str:
    """Return the digest of a scene, without drawing it.

    Args:
        split: `train`, `select` or `test`.
        index: Index of the scene in the split.

    Raises:
        DataError: If the split is unknown.
        IndexError: If the index is out of range.
    """
    if split not in SIZES:
        raise DataError(unknown("split of the birds", split, SIZES))
    if not 0 <= index < SIZES[split]:
        raise IndexError(f"birds:{split} has pictures 0 to {SIZES[split] - 1}, not {index}")
    return digest("birds", VERSION, split, operator.index(index))


@lru_cache
def labels(split: str) -> np.ndarray:
    """Return the class of every picture of a split, in an order that depends only on the split."""
    order = random_of("labels", split).random(SIZES[split]).argsort(kind="stable") % len(CODE)
    order.flags.writeable = False
    return order


def render(split: str, index: int, without: Collection[str] = (), size: int = SIZE) -> np.ndarray:
    """Draw the picture of a scene, see `BirdScene`.

    Args:
        split: `train`, `select` or `test`.
        index: Index of the scene in the split.
        without: What to leave out, of `PARTS` and `OBJECTS`.
        size: Side of the picture, in pixels.

    Returns:
        The picture, uint8 (H,W,3).
    """
    return BirdScene(split, index, size).render(without)


def masks(split: str, index: int, size: int = SIZE) -> dict[str, np.ndarray]:
    """Return the mask of the visible pixels of each part of a scene, see `BirdScene`.

    Args:
        split: `train`, `select` or `test`.
        index: Index of the scene in the split.
        size: Side of the picture, in pixels.

    Returns:
        A boolean mask (H,W) for each of `PARTS`.
    """
    return BirdScene(split, index, size).masks()


def random_of(*key: object) -> np.random.Generator:
    """Return a generator of random numbers that depend on a key alone."""
    return np.random.Generator(np.random.PCG64(int(digest("birds", VERSION, *key), 16)))


def _remaining(without: Collection[str]) -> tuple[str, ...]:
    """Return the body and all parts except some. Raise `DataError` for a name that is neither a part nor an object of the background."""
    left_out = tuple(without)
    for name in left_out:
        if name not in PARTS + OBJECTS:
            raise DataError(unknown("part of a bird", name, PARTS, f"Objects of the background are named as {OBJECTS[0]!r}."))
    return (BODY, *(part for part in PARTS if part not in left_out))


def _owned(names: Sequence[str], shapes: Iterable[tuple[str, Stamp]], size: int) -> dict[str, np.ndarray]:
    """Return a boolean mask (H,W) for each name: where its shapes, painted from back to front, cover more than half of the pixel.

    Args:
        names: The names.
        shapes: Name and stamp of each shape. Those of other names only hide.
        size: Side of the picture, in pixels.
    """
    share = np.zeros((len(names), size, size), np.float32)
    owners = {name: np.array([[[name == other]] for other in names], np.float32) for name in names}
    nobody = np.zeros((len(names), 1, 1), np.float32)
    for name, stamp in shapes:
        paint(share, stamp, owners.get(name, nobody))
    return dict(zip(names, share > 0.5, strict=True))


class BirdScene:
    """One scene. The same split and index give the same scene bit by bit, in any process and whatever was drawn before.

    Another `size` shows the same scene. The background is drawn only once, so that further pictures of the scene cost less. `shapes`
    and `stamps` are those of the bird, from back to front.

    Args:
        split: `train`, `select` or `test`.
        index: Index of the scene in the split.
        size: Side of the picture, from 16 to 2048 px.

    Raises:
        DataError: If the split is unknown, or the size is out of range.
        IndexError: If the index is out of range.
    """

    def __init__(self, split: str, index: int, size: int = SIZE):
        self.id = scene_id(split, index)
        if not SMALLEST <= size <= LARGEST:
            raise DataError(f"birds of {size} px cannot be drawn; choose a size from {SMALLEST} to {LARGEST}")
        self.index, self.size = operator.index(index), size
        self.label = int(labels(split)[index])
        rng = random_of("bird", split, self.index)
        self._bird = Bird(self.label, rng)
        self._light = rng.random(4)
        self._background = random_of("background", split, self.index)
        self.shapes = self._bird.shapes
        self.stamps = coverage([shape.outlines for shape in self.shapes], size)

    def render(self, without: Collection[str] = ()) -> np.ndarray:
        """Draw the picture, uint8 (H,W,3), without some of its parts and of the objects of its background.

        Everything else is unchanged: what a missing part or object hid or shaded becomes visible, and no other pixel differs. An object
        that the background does not have changes nothing.

        Raises:
            DataError: If a name is neither one of `PARTS` nor one of `OBJECTS`.
        """
        left_out = frozenset(without)
        shown = _remaining(left_out)
        backdrop, grain = self._stage
        ground = self._ground if left_out.isdisjoint(OBJECTS) else backdrop.paint(left_out)
        strength, contrast, brightness, warmth = self._light
        canvas = ground * (1 - np.float32(0.3 + 0.2 * strength) * self._full(self._moved(self._blurred(shown, 0.018), 0.05)))
        for shape, stamp in zip(self.shapes, self.stamps, strict=True):
            if shape.part in shown:
                fill = shape.fill[:, None, None].astype(np.float32)
                shaded = fill * self._relief[stamp.rows, stamp.cols] if shape.part == BODY else fill
                paint(canvas, stamp, shaded, shape.opacity)
        ramp = (np.arange(self.size) + 0.5) / self.size - 0.5
        light = self._bird.light * (0.05 + 0.15 * contrast)
        tint = (0.82 + 0.24 * brightness) * (1 + 0.16 * (warmth - 0.5) * np.array([1, 0, -1]))
        canvas *= np.float32(1 + light.real * ramp + light.imag * ramp[:, None])
        canvas *= np.float32(255 * tint[:, None, None])
        canvas += grain
        return np.ascontiguousarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8).transpose(1, 2, 0))

    def masks(self, without: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Return a boolean mask (H,W) for each of `PARTS`, True where the part covers more than half of the pixel.

        Only visible areas count, so masks do not overlap. The parts in `without` are left out of the scene.

        Raises:
            DataError: If a name is neither one of `PARTS` nor one of `OBJECTS`.
        """
        return _owned(PARTS, self._solid(_remaining(without)), self.size)

    def object_masks(self) -> dict[str, np.ndarray]:
        """Return a boolean mask (H,W) for each of `OBJECTS`, True where it covers more than half of the pixel and can be seen.

        The masks of objects that the background does not have, or that are hidden, are empty.
        """
        return _owned(OBJECTS, [*self._stage[0].shapes, *self._solid((BODY, *PARTS))], self.size)

    def _solid(self, shown: Collection[str]) -> list[tuple[str, Stamp]]:
        """Return the part and the stamp of each shape of the bird, from back to front, without shadows.

        A shadow belongs neither to what it falls on nor to what casts it.
        """
        pairs = zip(self.shapes, self.stamps, strict=True)
        return [(shape.part, stamp) for shape, stamp in pairs if shape.part in shown and shape.opacity == 1]

    @cached_property
    def _ground(self) -> np.ndarray:
        """Return the background with all of its objects, (3,H,W) from 0 to 1."""
        return self._stage[0].paint()

    @cached_property
    def _stage(self) -> tuple[Backdrop, np.ndarray]:
        """Return the background and the grain of the picture (H,W), in grey levels."""
        size, rng = self.size, self._background
        backdrop = Backdrop(rng, self._bird.feet, self._bird.scale, size)
        grain = np.float32(12) * rng.random((SIZE, SIZE), dtype=np.float32) - np.float32(5.5)
        if size != SIZE:
            grain = np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BILINEAR))
        return backdrop, grain

    def _blurred(self, parts: Collection[str], radius: float) -> Image.Image:
        """Return the blurred silhouette of some parts, at half the size."""
        alpha = np.zeros((self.size, self.size), np.float32)
        for shape, stamp in zip(self.shapes, self.stamps, strict=True):
            if shape.part in parts and shape.opacity == 1:
                view = alpha[stamp.rows, stamp.cols]
                np.maximum(view, stamp.alpha, out=view)
        blur = ImageFilter.BoxBlur(radius * self.size / 2)
        return Image.fromarray((alpha * 255).astype(np.uint8)).reduce(2).filter(blur).filter(blur)

    def _moved(self, half: Image.Image, distance: float) -> Image.Image:
        """Return a half-size picture moved away from the light by a distance in sides."""
        way = -distance * half.width * self._bird.light
        moved = Image.new("L", half.size)
        moved.paste(half, (round(way.real), round(way.imag)))
        return moved

    def _full(self, half: Image.Image) -> np.ndarray:
        """Return a half-size picture enlarged to the size of the scene, (H,W) from 0 to 1."""
        return np.asarray(half.resize((self.size, self.size), Image.Resampling.BILINEAR)) * np.float32(1 / 255)

    @cached_property
    def _relief(self) -> np.ndarray:
        """Return the shading of a round body (H,W), from the difference of its blurred silhouette moved away from and towards the light."""
        soft = self._blurred([BODY], 0.05)
        difference = ImageChops.subtract(self._moved(soft, 0.05), self._moved(soft, -0.05), 2, 128)
        return 1 + np.float32(0.9) * (self._full(difference) - np.float32(128 / 255))
