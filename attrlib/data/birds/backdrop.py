"""Backgrounds of the birds: a blurred distance, clutter in the colours of bird parts, and something to stand on."""

from collections.abc import Collection, Iterable

import numpy as np
from PIL import Image

from attrlib.data.birds.raster import Outline, Stamp, coverage, paint, stroke
from attrlib.data.birds.variants import PIGMENTS, colour

SETTINGS = {
    name: np.array([colour(text) for text in colours.split()])
    for name, colours in {
        "meadow": "a9c9d6 dfe6d2 8aa678 6d8f63 b7c78c",
        "wood": "3f5a4a 6f8a5c 2f4638 8aa06a 54683f",
        "dusk": "e7b48f 8c6f86 6a5674 c98f84 54506e",
        "shore": "bcd6de d8cbb0 93a9a6 b6a88a e5dcc4",
        "autumn": "d9b98a 9a7148 b5763c 7a5a3a c99a55",
        "fog": "d7dde2 aab6c0 8f9ca8 c3ccd2 e6eaec",
        "rock": "8b8f8d 6d6a66 a7a49b 545452 7d8272",
        "blossom": "f0d9d6 c9d3b8 d7a7ae a3b58c e9c4c2",
        "night": "2f4258 56708a 22303f 6f88a0 3d5266",
        "water": "9fc4b4 5f9c96 7fb0a2 3f7a78 b8d2c0",
    }.items()
}
"""Colours of each setting: above, below, and of what grows there."""
_PIGMENTS = np.array(PIGMENTS)
_WOOD = np.array(colour("6f5340"))
_WEAVES = ((8, 8), (24, 6), (6, 24), (20, 20))
_AROUND = np.linspace(0, 2 * np.pi, 18, endpoint=False)
_CIRCLE = np.exp(1j * _AROUND)
_ALONG = np.linspace(0, 1, 9)
_LEAF, _THORN, _TWIG = np.sin(np.pi * _ALONG**0.8) + 0.02, 1.02 - _ALONG, 1.2 - 0.6 * _ALONG
# Of leaves, feathers, thorns, twigs and stems: the largest length, and the smallest and largest width as shares of the length. The
# profiles below are their widths along the length.
_SIZES = np.array([[0.15, 0.25, 0.5], [0.17, 0.25, 0.5], [0.15, 0.25, 0.5], [0.5, 0.03, 0.045], [0.19, 0.12, 0.2]])
_PROFILES = np.stack([_LEAF, _LEAF, _THORN, _TWIG, _TWIG])
_LONG = ("leaf", "feather", "thorn", "twig", "stem")
_MOST = {"leaf": 6, "twig": 3, "feather": 3, "thorn": 3, "stem": 3, "petal": 3, "berry": 3}


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(1, count + 1)]


OBJECTS = tuple(name for kind, most in _MOST.items() for name in _names(kind, most))
"""The objects that a background may have: at least one of each kind."""


class Backdrop:
    """A random background, drawn with or without any of its objects.

    Args:
        rng: Generator of all random choices.
        feet: Positions of the feet of the bird that stands on it, as complex numbers x + iy in sides of the picture.
        scale: Length of the bird's body, in sides of the picture.
        size: Side of the picture, in pixels.
    """

    def __init__(self, rng: np.random.Generator, feet: np.ndarray, scale: float, size: int):
        colours = list(SETTINGS.values())[int(len(SETTINGS) * rng.random())]
        far = (np.clip(_distance(rng, colours, size // 2), 0, 1) * 255).astype(np.uint8)
        # Drawn at half the size and enlarged, so that it looks out of focus.
        planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in far]
        self._far = np.stack([np.asarray(plane) for plane in planes]) * np.float32(1 / 255)
        clutter = _Clutter(rng)
        scattered = _scatter(clutter, colours[2:])
        if rng.random() < 0.6:
            _branch(clutter, feet, scale)
        else:
            _mound(clutter, feet, scale, colours[2:])
        self._stamps, self._fills = clutter.stamps(size), clutter.fills
        self._owners = scattered + [""] * (len(self._stamps) - len(scattered))

    def paint(self, without: Collection[str] = ()) -> np.ndarray:
        """Return the background (3,H,W), from 0 to 1, without some of `OBJECTS`."""
        canvas = self._far.copy()
        for owner, stamp, fill in zip(self._owners, self._stamps, self._fills, strict=True):
            if owner not in without:
                paint(canvas, stamp, fill)
        return canvas

    @property
    def shapes(self) -> list[tuple[str, Stamp]]:
        """Return the stamps from back to front, each with the object that it belongs to; empty for what the bird stands on."""
        return list(zip(self._owners, self._stamps, strict=True))


def _distance(rng: np.random.Generator, colours: np.ndarray, size: int) -> np.ndarray:
    """Draw a gradient between two colours, with a texture and large pale shapes: lights, leaves, stones or blades."""

    def texture(rows: int, cols: int) -> np.ndarray:
        grid = Image.fromarray((rng.random((rows, cols)) * 255).astype(np.uint8))
        return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1 / 255) - np.float32(0.5)

    slant, middle, sharpness, strength, weave, kind = rng.random(6)
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    height = ramp[:, None] + np.float32(slant - 0.5) * ramp + np.float32(0.4) * texture(4, 4)
    share = np.clip((height + np.float32(0.15 - 0.3 * middle)) * np.float32(1 + 3 * sharpness) + np.float32(0.5), 0, 1)
    above, below = colours[:2, :, None, None].astype(np.float32)
    canvas = above + (below - above) * share
    canvas += np.float32(0.06 + 0.12 * strength) * texture(*_WEAVES[int(len(_WEAVES) * weave)])

    clutter = _Clutter(rng)
    count = 8 + int(9 * rng.random())
    radius = clutter.between(0.04, 0.16, count)
    if kind < 0.5:
        outlines = clutter.blobs(radius, 0.0) if kind < 0.25 else clutter.blobs(1.3 * radius, 0.16)
    elif kind < 0.75:
        outlines = clutter.strokes(1.8 * radius, 0.7 * radius[:, None] * _LEAF)[0]
    else:
        outlines = clutter.blades(clutter.between(0, 1, count), 1.05, 5 * radius, 0.02 + 0.25 * radius)
    clutter.add(outlines, clutter.pick(colours[2:], count, 0.1))
    stamps, opacities = clutter.stamps(size), clutter.between(0.25, 0.75, count)
    for stamp, fill, opacity in zip(stamps, clutter.fills, opacities, strict=True):
        paint(canvas, stamp, fill, opacity)
    return canvas


def _scatter(clutter: "_Clutter", colours: np.ndarray) -> list[str]:
    """Add leaves and twigs in the colours of the setting, and distractors in the colours of bird parts.

    The distractors are feathers like tails and crests, thorns like beaks, stems like legs, petals, and berries like eyes.

    Returns:
        The object of each outline, one of `OBJECTS`.
    """
    leaves, twigs, feathers, thorns, stems, petals, berries = (clutter.between(0, 1, 7) * tuple(_MOST.values()) + 1).astype(int)
    counts = [leaves, feathers, thorns, twigs, stems]
    longest, slim, broad = np.repeat(_SIZES, counts, 0).T
    lengths = longest * clutter.between(0.45, 1, len(longest))
    widths = lengths * (slim + (broad - slim) * clutter.between(0, 1, len(longest)))
    whole, half = clutter.strokes(lengths, widths[:, None] * np.repeat(_PROFILES, counts, 0))
    palettes = (colours, _PIGMENTS, _PIGMENTS, colours, _PIGMENTS)
    fills = np.concatenate([clutter.pick(palette, count, 0.06) for palette, count in zip(palettes, counts, strict=True)])
    folded = leaves + feathers + thorns
    clutter.add(whole, fills)
    clutter.add(half[:folded], 0.8 * fills[:folded])
    round_things = clutter.blobs(clutter.between(0.02, 0.04, petals + berries), np.repeat([0.2, 0.0], [petals, berries])[:, None])
    fills = clutter.pick(_PIGMENTS, petals + berries, 0.06)
    pupils = round_things[petals:] * 0.5 + round_things[petals:].mean(1, keepdims=True) * 0.5
    clutter.add(np.concatenate([round_things, pupils]), np.concatenate([fills, 0.3 * fills[petals:]]))
    long_names = [name for kind, count in zip(_LONG, counts, strict=True) for name in _names(kind, count)]
    return [*long_names, *long_names[:folded], *_names("petal", petals), *_names("berry", berries), *_names("berry", berries)]


def _ground(clutter: "_Clutter", feet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a line from left to right under both feet, as x and y."""
    left, right = feet[feet.real.argsort()]
    slope = min(max((right - left).imag / max((right - left).real, 0.02), -0.35), 0.35)
    middle = (left + right) / 2
    x = np.linspace(-0.15, 1.15, 14)
    away = x - middle.real
    return x, middle.imag + slope * away + clutter.between(-0.15, 0.15, 1) * away**2


def _branch(clutter: "_Clutter", feet: np.ndarray, scale: float) -> None:
    x, y = _ground(clutter, feet)
    width = scale * clutter.between(0.10, 0.17, 1) * (1 + clutter.between(-0.12, 0.12, len(x)))
    line = x + 1j * (y + 0.45 * width.mean())
    tones = clutter.between(0.7, 1.25, 1) * np.array([[1.0], [0.75], [1.2]])
    clutter.add(np.stack([stroke(line, width, sides) for sides in ((-0.5, 0.5), (0.05, 0.5), (-0.44, -0.25))]), _WOOD * tones)


def _mound(clutter: "_Clutter", feet: np.ndarray, scale: float, colours: np.ndarray) -> None:
    x, y = _ground(clutter, feet)
    y = y + scale * (0.05 + clutter.between(-0.02, 0.02, len(x)))
    fill = clutter.pick(colours, 1, 0.06) * 0.85
    at, height = clutter.between(0, 1, 9), clutter.between(0.06, 0.16, 9)
    clutter.add(clutter.blades(at, np.interp(at, x, y) + 0.03, height, 0.02), fill * clutter.between(0.75, 1.15, 9)[:, None])
    below = [1.15 + 1.3j, -0.15 + 1.3j]
    edges = [np.concatenate([x + 1j * (y + depth), below]) for depth in (0, 0.09 + 0.03 * np.sin(9 * x))]
    clutter.add(edges, fill * [[1.0], [0.85]])


class _Clutter:
    """Shapes at random places, collected and rasterised together. Outlines are (n,k), colours (n,3)."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._outlines: list[Outline] = []
        self._fills: list[np.ndarray] = []

    def between(self, low: float, high: float, count: int) -> np.ndarray:
        return low + (high - low) * self._rng.random(count)

    def pick(self, colours: np.ndarray, count: int, jitter: float) -> np.ndarray:
        chosen = colours[(len(colours) * self._rng.random(count)).astype(int)]
        return chosen + jitter * (2 * self._rng.random((count, 3)) - 1)

    def add(self, outlines: Iterable[Outline], fills: np.ndarray) -> None:
        self._outlines += list(outlines)
        self._fills.append(fills)

    @property
    def fills(self) -> np.ndarray:
        """Return the colour of each shape, (n,3,1,1)."""
        return np.clip(np.concatenate(self._fills), 0.02, 0.98).astype(np.float32)[:, :, None, None]

    def stamps(self, size: int) -> list[Stamp]:
        """Return the stamp of each shape on a picture of a size."""
        return coverage([[outline] for outline in self._outlines], size)

    def _anywhere(self, outlines: np.ndarray) -> np.ndarray:
        """Return outlines (...,n,k) around the origin, turned and moved at random."""
        x, y, turn = self._rng.random((3, outlines.shape[-2], 1))
        return x + 1j * y + np.exp(2j * np.pi * turn) * outlines

    def strokes(self, lengths: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Return bent lines of given lengths (n,) and widths (n,9): whole, and the half on one side of the middle, (2,n,k)."""
        t = _ALONG - 0.5
        centres = lengths[:, None] * (t + 1j * self.between(-0.7, 0.7, len(lengths))[:, None] * (0.25 - t * t))
        return self._anywhere(np.stack([stroke(centres, widths), stroke(centres, widths, (0.0, 0.5))]))

    def blobs(self, radii: np.ndarray, wobble: np.ndarray | float) -> np.ndarray:
        """Return circles, or stone-like shapes if `wobble` is not zero."""
        a, b = 2 * np.pi * self._rng.random((2, len(radii), 1))
        waves = np.sin(2 * _AROUND + a) + 0.6 * np.sin(3 * _AROUND + b)
        return self._anywhere(radii[:, None] * (1 + wobble * waves) * _CIRCLE)

    def blades(self, x: np.ndarray, y: np.ndarray | float, heights: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
        """Return blades of grass that grow at (x,y)."""
        sway = self.between(-0.35, 0.35, len(x)) * heights
        centres = (x + 1j * y)[:, None] + sway[:, None] * _ALONG**2 - 1j * heights[:, None] * _ALONG
        return stroke(centres, np.broadcast_to(widths, x.shape)[:, None] * (1 - 0.9 * _ALONG))
