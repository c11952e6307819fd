import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from support.waiting import ends
from torch import Tensor

from attrlib.figures.colours import css_gradient, table
from attrlib.figures.numbers import number, spans_decades
from attrlib.figures.overlay import colour_map, draw, encode, limit, prepare
from attrlib.figures.panel import Tile, limits, panel
from attrlib.registry import params_of
from attrlib.specs import ViewSpec

CHOICES = {p.name: p.choices for p in params_of(ViewSpec)}
DIVERGING, SEQUENTIAL = CHOICES["diverging"], CHOICES["sequential"]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def luminance(colours: np.ndarray) -> np.ndarray:
    linear = (colours / 255) ** 2.2
    return linear @ [0.2126, 0.7152, 0.0722]


# Colours


@pytest.mark.parametrize("name", [*DIVERGING, *SEQUENTIAL])
def test_a_colour_map_is_a_table_of_256_colours(name: str) -> None:
    assert table(name).shape == (256, 3)
    assert table(name).dtype == np.uint8
    assert np.abs(np.diff(table(name).astype(int), axis=0)).max() <= 8


@pytest.mark.parametrize("name", DIVERGING)
def test_a_diverging_colour_map_goes_from_cold_through_near_white_to_warm(name: str) -> None:
    colours = table(name).astype(int)
    assert colours[127:129].min() >= 240
    warmth = colours[:, 0] - colours[:, 1:].mean(1)
    assert warmth[230] - warmth[25] > 50
    assert (np.diff(luminance(colours[:128])) >= -0.002).all()
    assert (np.diff(luminance(colours[128:])) <= 0.002).all()


def test_the_default_colour_map_is_blue_below_zero_and_orange_above() -> None:
    red, green, blue = table(ViewSpec().diverging).astype(int).T
    assert (blue[:120] > red[:120]).all()
    assert (red[136:] > green[136:]).all()
    assert (green[136:] > blue[136:]).all()


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_sequential_colour_map_becomes_ever_brighter(name: str) -> None:
    brightness = luminance(table(name))
    assert (np.diff(brightness) >= -0.001).all()
    assert brightness[-1] - brightness[0] > 0.5


@pytest.mark.parametrize("name", [*DIVERGING, *SEQUENTIAL])
def test_the_gradient_shows_the_colours_from_left_to_right(name: str) -> None:
    first, last = (",".join(map(str, table(name)[i])) for i in (0, 255))
    assert css_gradient(name).startswith(f"linear-gradient(to right, rgb({first})")
    assert css_gradient(name).endswith(f"rgb({last}))")


# One overlay


@pytest.mark.parametrize("name", DIVERGING)
@pytest.mark.parametrize(("value", "index"), [(0.0, 128), (2.0, 255), (-2.0, 0), (9.0, 255), (-9.0, 0), (1.0, 191), (-1.0, 64)])
def test_a_signed_value_has_its_place_in_the_colour_map(name: str, value: float, index: int) -> None:
    drawn = np.asarray(draw(torch.full((3, 3), value), PHOTO, ViewSpec(opacity=1.0, diverging=name), top=2.0))
    assert (drawn == table(name)[index]).all()


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("sign", ["positive", "absolute"])
@pytest.mark.parametrize(("value", "index"), [(0.0, 0), (2.0, 255), (9.0, 255), (1.0, 128)])
def test_a_positive_value_has_its_place_in_the_colour_map(name: str, sign: str, value: float, index: int) -> None:
    view = ViewSpec(sign=sign, opacity=1.0, sequential=name)
    drawn = np.asarray(draw(torch.full((3, 3), value), PHOTO, view, top=2.0))
    assert (drawn == table(name)[index]).all()


def test_without_opacity_the_grey_photo_is_left() -> None:
    drawn = np.asarray(draw(values(7, 7), PHOTO, ViewSpec(opacity=0.0), top=1.0))
    assert (drawn == np.asarray(PHOTO.convert("L"))[..., None]).all()


@pytest.mark.parametrize("opacity", [0.3, 0.7])
def test_opacity_mixes_colour_and_grey_photo(opacity: float) -> None:
    drawn = np.asarray(draw(torch.ones(2, 2), PHOTO, ViewSpec(opacity=opacity), top=1.0)).astype(float)
    grey = np.asarray(PHOTO.convert("L"), dtype=float)[..., None]
    assert np.abs(drawn - (opacity * table("BlueOrange")[255] + (1 - opacity) * grey)).max() <= 0.51


def test_a_coarse_map_is_drawn_bilinearly_at_the_size_of_the_photo() -> None:
    coarse = values(5, 4).numpy()
    rows, columns = (np.arange(150) + 0.5) * 5 / 150 - 0.5, (np.arange(200) + 0.5) * 4 / 200 - 0.5
    fine = ndimage.map_coordinates(coarse, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
    expected = table("BlueOrange")[((fine / 3 + 1) / 2 * 255).clip(0, 255).round().astype(int)].astype(int)
    drawn = np.asarray(draw(torch.from_numpy(coarse), PHOTO, ViewSpec(opacity=1.0), top=3.0))
    assert drawn.shape == (150, 200, 3)
    assert np.abs(drawn - expected).max() <= 8
    assert (drawn == expected).mean() > 0.99


@pytest.mark.parametrize("sign", ["signed", "positive"])
def test_undefined_values_and_an_all_zero_map_are_drawn_as_zero(sign: str) -> None:
    view = ViewSpec(sign=sign, opacity=1.0)
    zero = table(colour_map(view))[128 if sign == "signed" else 0]
    assert (np.asarray(draw(torch.full((4, 4), torch.nan), PHOTO, view, top=1.0)) == zero).all()
    assert (np.asarray(draw(torch.zeros(4, 4), PHOTO, view, top=0.0)) == zero).all()


def test_only_signed_maps_get_the_diverging_colour_map() -> None:
    named = {sign: colour_map(ViewSpec(sign=sign, diverging="RdBu", sequential="Magma")) for sign in CHOICES["sign"]}
    assert named == {"signed": "RdBu", "positive": "Magma", "absolute": "Magma"}


# Limits


@pytest.mark.parametrize("clip", [50.0, 73.3, 90.0, 99.0, 99.5, 100.0])
@pytest.mark.parametrize("size", [1, 7, 50, 224])
def test_the_limit_is_the_percentile_of_the_magnitudes(clip: float, size: int) -> None:
    result = limit([values(size, size)], clip)
    magnitudes = np.abs(values(size, size).numpy())
    # Between two magnitudes, conventions differ on which to take, or where between them.
    low, high = (np.percentile(magnitudes, clip, method=m) for m in ("lower", "higher"))
    after = np.sort(magnitudes.ravel())[min(np.searchsorted(np.sort(magnitudes.ravel()), high) + 1, magnitudes.size - 1)]
    assert low <= result <= after
    assert result in magnitudes
    assert (magnitudes > result).mean() <= 1 - clip / 100


def test_the_limit_of_several_maps_is_that_of_all_their_values() -> None:
    maps = [values(20, 20, seed=s) * scale for s, scale in ((1, 1), (2, 100), (3, 0.01))]
    assert limit(maps, 95.0) == limit([torch.cat([m.flatten() for m in maps])], 95.0)
    assert limit(maps, 100.0) == float(maps[1].abs().max())


def test_the_limit_of_a_map_that_is_zero_nearly_everywhere_is_its_maximum() -> None:
    sparse = torch.zeros(100, 100)
    sparse[3, 4], sparse[5, 6] = -7.0, 2.0
    assert limit([sparse], 99.5) == 7.0


def test_the_limit_of_nothing_is_zero() -> None:
    assert limit([torch.zeros(9, 9)], 99.5) == 0.0
    assert limit([torch.full((9, 9), torch.nan)], 99.5) == 0.0


def test_the_limit_ignores_what_is_not_finite() -> None:
    spoilt = torch.cat([values(1000), torch.tensor([torch.nan, torch.inf, -torch.inf] * 50)])
    assert limit([spoilt], 99.0) == limit([values(1000)], 99.0)


def test_the_scale_is_shared_or_each_maps_own() -> None:
    tiles = [Tile("a", "", values(9, 9)), Tile("b", "", values(9, 9) * 10), Tile("c", "", values(9, 9) * 1000, defect="All zero: x")]
    own = [limit([t.values], 90.0) for t in tiles]
    assert limits(tiles, ViewSpec(scale="each", clip=90.0)) == own
    shared = limits(tiles, ViewSpec(scale="shared", clip=90.0))
    assert shared == [limit([t.values for t in tiles[:2]], 90.0)] * 3
    assert own[0] < shared[0] < own[2]


@pytest.mark.parametrize("scale", ["shared", "each"])
def test_maps_that_are_all_defective_have_limits_all_the_same(scale: str) -> None:
    tiles = [Tile("a", "", torch.full((4, 4), torch.nan), "NaN."), Tile("b", "", torch.zeros(4, 4), "All zero.")]
    assert limits(tiles, ViewSpec(scale=scale)) == [0.0, 0.0]


# Prepare


def prepared_by_scipy(maps: np.ndarray, size: tuple[int, int], kernel: int, sign: str) -> np.ndarray:
    rows, columns = ((np.arange(n) + 0.5) * have / n - 0.5 for n, have in zip(size, maps.shape, strict=True))
    result = ndimage.map_coordinates(maps.astype(float), np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
    if kernel:
        weights = np.exp(-0.5 * (np.arange(-(kernel // 2), kernel // 2 + 1) / (kernel / 4)) ** 2)
        for axis in (0, 1):
            result = ndimage.correlate1d(result, weights / weights.sum(), axis=axis, mode="constant")
    return {"signed": result, "positive": np.maximum(result, 0), "absolute": np.abs(result)}[sign]


@pytest.mark.parametrize("sign", CHOICES["sign"])
@pytest.mark.parametrize("kernel", [0, 5, 31])
@pytest.mark.parametrize("shape", [(7, 7), (40, 30), (5, 13)])
def test_a_map_is_resized_then_smoothed_then_gets_its_sign(shape: tuple[int, int], kernel: int, sign: str) -> None:
    maps = values(2, 1, *shape)
    prepared = prepare(maps, ViewSpec(sign=sign, smoothing=kernel), (40, 30))
    assert prepared.shape == (2, 1, 40, 30)
    for one, result in zip(maps, prepared, strict=True):
        np.testing.assert_allclose(result[0], prepared_by_scipy(one[0].numpy(), (40, 30), kernel, sign), atol=1e-5)


# Panel


def place(index: int, columns: int) -> tuple[int, int, int, int]:
    """Return the box of a picture in the panel: tiles are 16 px apart, with two lines of 22 px above and one below."""
    left = 16 + index % columns * (PHOTO.width + 16)
    top = 16 + index // columns * (PHOTO.height + 3 * 22 + 16) + 2 * 22
    return left, top, left + PHOTO.width, top + PHOTO.height


def tiles(count: int) -> list[Tile]:
    return [Tile(f"Method {i}", "Final 7×7", values(7, 7, seed=i)) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "columns", "grid"), [(0, 5, (1, 1)), (1, 5, (2, 1)), (4, 5, (5, 1)), (5, 5, (5, 2)), (6, 3, (3, 3)), (3, 1, (1, 4))]
)
def test_the_panel_holds_the_photo_and_its_maps_row_by_row(count: int, columns: int, grid: tuple[int, int]) -> None:
    view = ViewSpec(opacity=1.0, scale="shared")
    sheet = panel(PHOTO, "cat", tiles(count), view, columns)
    assert sheet.size == (16 + grid[0] * (200 + 16), 16 + grid[1] * (150 + 66 + 16))
    assert sheet.crop(place(0, grid[0])).tobytes() == PHOTO.tobytes()
    for i, (tile, top) in enumerate(zip(tiles(count), limits(tiles(count), view), strict=True), start=1):
        assert sheet.crop(place(i, grid[0])).tobytes() == draw(tile.values, PHOTO, view, top).tobytes()


def test_a_defective_map_leaves_a_blank_tile_and_others_their_scale() -> None:
    shown = [
        *tiles(1),
        Tile("Broken", "", torch.full((7, 7), torch.nan), "All zero: the map shows no evidence for this class."),
        *tiles(3)[2:],
    ]
    sheet = panel(PHOTO, "cat", shown, ViewSpec(scale="shared"))
    assert len(sheet.crop(place(2, 4)).getcolors()) == 1
    alone = panel(PHOTO, "cat", [shown[0], shown[2]], ViewSpec(scale="shared"))
    for old, new in ((1, 1), (2, 3)):
        assert sheet.crop(place(new, 4)).tobytes() == alone.crop(place(old, 3)).tobytes()


def test_the_panel_says_why_a_tile_is_blank_even_where_the_reason_holds_a_number() -> None:
    def said(defect: str) -> bytes:
        return panel(PHOTO, "cat", [Tile("a", "b", torch.ones(7, 7), defect)], ViewSpec()).tobytes()

    assert said("Constant (0.25): every position has the same value. Choose another layer.") != said("Constant (0")


@pytest.mark.parametrize("line", [0, 1, "photo"])
def test_a_long_title_is_cut_to_the_width_of_its_tile(line: int | str) -> None:
    long = "A very long title that does not fit into its tile " * 3
    tile = Tile(long if line == 0 else "t", long if line == 1 else "s", values(7, 7))
    sheet = np.asarray(panel(PHOTO, long if line == "photo" else "p", [tile], ViewSpec()))
    lines = sheet[16 : 16 + 2 * 22]
    assert (lines[:, 16 + 200 + 2 : 16 + 216 - 2] == 255).all()
    assert (lines[:, 16 + 216 + 200 + 2 :] == 255).all()
    column = slice(16, 216) if line == "photo" else slice(16 + 216, 16 + 416)
    used = np.flatnonzero((lines[:, column] < 255).any((0, 2)))
    assert used.max() > 170


def test_a_title_that_fits_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, corner, text, *args, **options: written.append(text))
    panel(PHOTO, "tiger cat", [Tile("Guided Backprop", "Middle 28×28", values(7, 7))], ViewSpec(clip=100.0))
    top = f"{float(values(7, 7).abs().max()):.2g}"
    # The font has no multiplication sign.
    assert written == ["Photo", "tiger cat", "Guided Backprop", "Middle 28x28", f"-{top}", top]


def test_a_cut_title_is_its_beginning_and_an_ellipsis(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, corner, text, *args, **options: written.append(text))
    panel(PHOTO, "0123456789" * 9, [], ViewSpec())
    assert written[1].endswith("…")
    assert ("0123456789" * 9).startswith(written[1][:-1])
    assert 170 < ImageFont.load_default(14).getlength(written[1]) <= 200


@pytest.mark.parametrize("sign", CHOICES["sign"])
def test_the_scale_below_a_tile_shows_its_colour_map(sign: str) -> None:
    view = ViewSpec(sign=sign)
    sheet = np.asarray(panel(PHOTO, "cat", tiles(1), view))
    left, _, right, below = place(1, 2)
    bar = sheet[below + 4 + 9, left + 60 : right - 60].astype(int)
    colours = table(colour_map(view)).astype(int)
    expected = colours[((np.arange(len(bar)) + 0.5) / len(bar) * 256).astype(int)]
    assert np.abs(bar - expected).max() <= 10


@pytest.mark.parametrize("width", [8, 32, 64, 120, 121])
def test_a_panel_of_a_narrow_photo_can_be_drawn(width: int) -> None:
    photo = PHOTO.resize((width, width))
    with ends():
        assert panel(photo, "tiger cat", tiles(2), ViewSpec()).size == (16 + 3 * (width + 16), 16 + width + 66 + 16)


def test_a_title_with_a_line_break_can_be_drawn() -> None:
    assert panel(PHOTO, "tiger\ncat", tiles(1), ViewSpec()).size == panel(PHOTO, "tiger cat", tiles(1), ViewSpec()).size


# Files


def test_a_png_keeps_every_pixel_and_a_jpeg_nearly_so() -> None:
    picture = panel(PHOTO, "cat", tiles(2), ViewSpec())
    png, jpeg = (Image.open(io.BytesIO(encode(picture, kind))) for kind in ("PNG", "JPEG"))
    assert (png.format, jpeg.format) == ("PNG", "JPEG")
    assert png.tobytes() == picture.tobytes()
    assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(picture)).mean() < 6
    assert encode(picture) == encode(picture, "JPEG")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.500"), (-0.0133, "-0.013"), (0.0026, "0.0026"), (2.6e-5, "2.6e-05"), (-4e-7, "-4e-07"), (0.0, "0.000"), (1234.5, "1234.500"),
     (math.nan, "–"), (math.inf, "–")],
)  # fmt: skip
def test_no_score_is_rounded_to_nothing(value: float, text: str) -> None:
    assert number(value) == text


def test_only_values_above_0_that_differ_by_decades_span_them() -> None:
    assert spans_decades([1e-5, 1e-2, math.nan])
    assert not spans_decades([1e-2, 1.0])
    assert not spans_decades([0.0, 1e-5, 1.0])
    assert not spans_decades([-1e-5, 1.0])
    assert not spans_decades([])
