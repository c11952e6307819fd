import io
import random
import resource
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile
from support.waiting import counted_calls

from attrlib.data.datasets import load_dataset
from attrlib.data.images import open_photo
from attrlib.data.limits import MAX_PIXELS, MIN_SIDE
from attrlib.data.pictures import NAMES, is_named, open_image, title
from attrlib.data.samples import SAMPLES, open_sample
from attrlib.errors import ImageError
from attrlib.models.preprocessing import Preprocessing

ADVICE = r"(use a|use a picture with|give the path of|save or download|scale it down|Did you mean|Known:)"
ORIENTATION = 0x0112


def noise(height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks() -> np.ndarray:
    """Four flat quarters of different colours, which survive JPEG."""
    colours = np.array([[[250, 10, 20], [10, 240, 30]], [[20, 30, 230], [240, 240, 10]]], dtype=np.uint8)
    return colours.repeat(32, axis=0).repeat(24, axis=1)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(source: object) -> np.ndarray:
    photo = open_image(source)
    assert photo.image.mode == "RGB"
    return np.asarray(photo.image).astype(int)


def indexed(indices: np.ndarray, palette: list[list[int]]) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette([value for colour in palette for value in colour])
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that decodes to the given size: zeros compress well."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + png_chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded(noise(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded(noise(), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    flags = int.from_bytes(data[at : at + 4], "little") >> 28 << 28
    data[at : at + 4] = (flags | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(data)


def bmp_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded(noise(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_bomb(width: int, height: int, values: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(
        file, noise() if values is None else values, photometric="rgb" if values is None else "minisblack", planarconfig="contig"
    )
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        where = {tag.code: tag.valueoffset for tag in opened.pages[0].tags}
    for code, value in ((256, width), (257, height)):
        kind = "<I" if data[where[code] - 6] == 4 else "<H"
        data[where[code] : where[code] + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(data)


def array_bomb(width: int, height: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
    return file.getvalue()


def tiff(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """An EXIF block of entries (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


# Samples and formats


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_opens_as_rgb_by_name(name: str) -> None:
    photo = open_sample(name)
    assert photo.image.mode == "RGB"
    assert min(photo.image.size) >= 224
    assert photo.name == f"sample:{name}"
    assert open_image(f"sample:{name}").digest == photo.digest


def test_samples_are_different_pictures() -> None:
    assert len({open_sample(name).digest for name in SAMPLES}) == len(SAMPLES)


def test_a_bird_opens_by_name() -> None:
    photo, item = open_image("birds:select/7"), load_dataset("birds:select")[7]
    assert photo.image.tobytes() == item.image.tobytes()
    assert photo.name == "birds:select/7" == item.name
    assert title(photo.name) == f"bird 7: {load_dataset('birds').class_names[item.label]}"
    with pytest.raises(ImageError, match="birds:test has no bird 1000; choose one from 0 to 999"):
        open_image("birds:test/1000")


def test_listed_names_can_be_opened() -> None:
    assert all(is_named(name) and open_image(name).name == name for name in NAMES)
    assert len({title(name) for name in NAMES}) == len(NAMES)
    for other in (
        "cat",
        "sample:dog",
        "birds:test",
        "birds:test/",
        "birds:test/-1",
        "birds:wild/1",
        "birds:test/1/../2",
        "upload:sample:cat",
    ):
        assert not is_named(other)


def test_an_unknown_sample_is_refused_naming_the_nearest() -> None:
    with pytest.raises(ImageError, match="astronaut"):
        open_image("sample:astronaught")


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 2),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "packbits"}, 0),
    ],
)
@pytest.mark.parametrize("way", ["path", "text", "bytes", "file"])
def test_every_format_opens_with_their_pixels_from_anywhere(kind: str, options: dict, tolerance: int, way: str, tmp_path: Path) -> None:
    data = encoded(blocks(), kind, **options)
    path = tmp_path / "picture.of.some.kind"
    path.write_bytes(data)
    source = {"path": path, "text": str(path), "bytes": data, "file": io.BytesIO(data)}[way]
    photo = open_photo(source)
    assert photo.image.size == blocks().shape[1::-1]
    assert np.abs(np.asarray(photo.image).astype(int) - blocks()).mean() <= tolerance
    assert photo.name == (path.name if way in ("path", "text") else "picture")
    assert photo.notes == ()


def test_a_given_name_is_used() -> None:
    assert open_photo(encoded(noise(), "PNG"), "mine.png").name == "mine.png"


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda u: u),
        (2, lambda u: u[:, ::-1]),
        (3, lambda u: u[::-1, ::-1]),
        (4, lambda u: u[::-1]),
        (5, lambda u: u.swapaxes(0, 1)),
        (6, lambda u: u.swapaxes(0, 1)[::-1]),
        (7, lambda u: u.swapaxes(0, 1)[::-1, ::-1]),
        (8, lambda u: u.swapaxes(0, 1)[:, ::-1]),
    ],
)
def test_every_exif_orientation_gives_the_upright_picture(orientation: int, stored: Callable, kind: str, options: dict) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    found = pixels(encoded(np.ascontiguousarray(stored(blocks())), kind, exif=exif, **options))
    assert found.shape == blocks().shape
    assert np.abs(found - blocks()).mean() <= (4 if kind == "JPEG" else 0)


# Colour modes


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 128), (127, 127, 127)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_a_cmyk_jpeg_is_converted_with_a_note(cmyk: tuple, rgb: tuple) -> None:
    data = encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG")
    assert np.abs(pixels(data) - rgb).max() <= 3
    assert "CMYK" in open_photo(data).notes[0]


def test_a_16_bit_greyscale_png_is_shown_in_8_bits_with_a_note() -> None:
    values = np.linspace(0, 65535, 400).round().astype(np.uint16).reshape(20, 20)
    data = encoded(values, "PNG")
    assert np.abs(pixels(data)[..., 0] - values / 257).max() <= 0.51
    assert "16 bits" in open_photo(data).notes[0]


@pytest.mark.parametrize(("mode", "kind"), [("I", np.int32), ("F", np.float32)])
def test_values_beyond_16_bits_are_scaled_by_the_largest(mode: str, kind: type) -> None:
    values = np.linspace(0, 1_000_000, 400).astype(kind).reshape(20, 20)
    photo = open_photo(Image.fromarray(values, mode=mode))
    assert np.abs(np.asarray(photo.image)[..., 0] - values / 1_000_000 * 255).max() <= 0.51
    assert photo.notes == ("values from 0 to 1e+06, read as floats",)


@pytest.mark.parametrize("value", [0, 1, 200, 255, 256, 2000])
def test_a_dark_16_bit_png_stays_dark(value: int) -> None:
    assert pixels(encoded(np.full((9, 9), value, np.uint16), "PNG")).max() == round(value / 257)


def test_a_palette_png_has_its_colours() -> None:
    indices = np.arange(64).reshape(8, 8) % 3
    palette = [[200, 10, 30], [0, 99, 255], [7, 8, 9]]
    assert (pixels(encoded(indexed(indices, palette), "PNG")) == np.array(palette)[indices]).all()


@pytest.mark.parametrize(
    ("transparency", "alphas"), [(1, [255, 0, 255]), (bytes([255, 128, 0]), [255, 128, 0]), (bytes([255, 255]), [255, 255, 255])]
)
def test_a_palette_png_with_transparency_is_shown_on_white(transparency: int | bytes, alphas: list[int]) -> None:
    indices = np.arange(64).reshape(8, 8) % 3
    palette = [[200, 10, 30], [0, 99, 255], [7, 8, 9]]
    data = encoded(indexed(indices, palette), "PNG", transparency=transparency)
    share = np.array(alphas)[:, None] / 255
    expected = np.array(palette) * share + 255 * (1 - share)
    assert np.abs(pixels(data) - expected[indices]).max() <= 1
    assert any("white" in note for note in open_photo(data).notes) == (min(alphas) < 255)


@pytest.mark.parametrize(
    ("mode", "kind", "options"), [("RGBA", "PNG", {}), ("LA", "PNG", {}), ("RGBA", "WEBP", {"lossless": True, "exact": True})]
)
def test_transparency_is_blended_over_white_with_a_note(mode: str, kind: str, options: dict) -> None:
    values = np.random.default_rng(1).integers(0, 256, (12, 10, len(mode)), dtype=np.uint8)
    data = encoded(Image.frombytes(mode, (10, 12), values.tobytes()), kind, **options)
    colour, share = values[..., :-1].astype(float), values[..., -1:] / 255
    expected = np.broadcast_to(colour * share + 255 * (1 - share), (12, 10, 3))
    assert np.abs(pixels(data) - expected).max() <= 1
    bands = len(mode)
    assert open_photo(data).notes == (f"transparent: shown on white; a model of {bands} channels takes the {bands} bands as they are",)


def test_an_opaque_alpha_channel_changes_nothing_and_needs_no_note() -> None:
    photo = open_photo(encoded(Image.fromarray(noise()).convert("RGBA"), "PNG"))
    assert (np.asarray(photo.image) == noise()).all()
    assert photo.notes == ()


@pytest.mark.parametrize(("mode", "key", "other"), [("L", 40, 90), ("RGB", (250, 0, 0), (90, 90, 90))])
def test_a_transparent_key_colour_is_shown_on_white(mode: str, key: object, other: object) -> None:
    image = Image.new(mode, (10, 10), key)
    image.putpixel((3, 4), other)
    data = encoded(image, "PNG", transparency=key)
    assert pixels(data)[4, 3].tolist() == [90] * 3
    assert pixels(data)[0, 0].tolist() == [255] * 3
    assert open_photo(data).notes[0].startswith("transparent: shown on white; ")


def test_greyscale_and_one_bit_become_equal_channels() -> None:
    grey = noise()[..., 0]
    assert (pixels(encoded(grey, "PNG")) == grey[..., None]).all()
    assert np.abs(pixels(encoded(np.full((16, 16), 77, np.uint8), "JPEG")) - 77).max() <= 1
    bits = noise()[..., 1] > 127
    assert (pixels(encoded(Image.fromarray(bits), "PNG")) == bits[..., None] * 255).all()


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("PNG", {})])
def test_the_first_frame_of_an_animation_is_used_with_a_note(kind: str, options: dict) -> None:
    rest = [Image.fromarray(noise(seed=s)) for s in (1, 2)]
    photo = open_photo(encoded(noise(), kind, save_all=True, append_images=rest, duration=40, **options))
    assert (np.asarray(photo.image) == noise()).all()
    assert any("first frame" in note for note in photo.notes)


# Digest


def test_the_digest_depends_only_on_the_pixels() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    files = [
        encoded(noise(), "PNG"),
        encoded(noise(), "PNG", compress_level=0, dpi=(72, 72), icc_profile=b"nonsense", exif=exif),
        encoded(noise(), "WEBP", lossless=True),
        encoded(Image.fromarray(noise()).convert("RGBA"), "PNG"),
    ]
    digests = {open_photo(data, name).digest for data, name in zip(files, "abcd", strict=True)}
    digests |= {open_photo(Image.fromarray(noise())).digest}
    assert len(digests) == 1


def test_another_picture_has_another_digest() -> None:
    changed = noise()
    changed[5, 5, 1] ^= 1
    reshaped = noise().reshape(30, 40, 3)
    assert len({open_photo(encoded(p, "PNG")).digest for p in (noise(), changed, reshaped)}) == 3


# Errors


def test_data_that_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"hello, this is text\n" * 50, random.Random(0).randbytes(5000), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF"):
        (tmp_path / "x.jpg").write_bytes(data)
        for source in (data, tmp_path / "x.jpg"):
            with pytest.raises(ImageError, match=ADVICE):
                open_photo(source)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})]
)
def test_a_file_that_is_cut_off_is_refused(kind: str, options: dict, share: float) -> None:
    data = encoded(noise(80, 60), kind, **options)
    with pytest.raises(ImageError, match=ADVICE):
        open_photo(data[: int(share * len(data))])


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_a_picture_that_is_too_small_is_refused(size: tuple[int, int]) -> None:
    for source in (encoded(noise(*size), "PNG"), Image.fromarray(noise(*size))):
        with pytest.raises(ImageError, match=f"at least {MIN_SIDE} px"):
            open_photo(source)


def test_the_smallest_picture_opens() -> None:
    assert open_photo(encoded(noise(MIN_SIDE, MIN_SIDE), "PNG")).image.size == (MIN_SIDE, MIN_SIDE)


BOMBS = {
    "30000 x 30000 PNG": lambda: png_bomb(30000, 30000),
    "12000 x 10000 PNG": lambda: png_bomb(12000, 10000),
    "just too large PNG": lambda: png_bomb(MAX_PIXELS // 1000 + 1, 1000),
    "1 x 60 million PNG": lambda: png_bomb(60_000_000, 1),
    "65000 x 65000 JPEG": lambda: jpeg_bomb(65000, 65000),
    "9000 x 9000 JPEG": lambda: jpeg_bomb(9000, 9000),
    "16383 x 16383 WebP": lambda: webp_bomb(16383, 16383),
    "9000 x 9000 WebP": lambda: webp_bomb(9000, 9000),
    "30000 x 30000 BMP": lambda: bmp_bomb(30000, 30000),
    "30000 x 30000 TIFF": lambda: tiff_bomb(30000, 30000),
    "30000 x 30000 TIFF of 12 bands": lambda: tiff_bomb(30000, 30000, np.zeros((9, 10, 12), np.uint16)),
    "30000 x 30000 array": lambda: array_bomb(30000, 30000),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_quickly_before_anything_is_decoded(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BOMBS[bomb]()

    def no_decoding(*_args: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_decoding)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with counted_calls(most=5000), pytest.raises(ImageError, match="million") as caught:
            open_photo(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "scale it down" in str(caught.value)
    assert peak < 4 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("kind", ["GIF", "ICO", "PPM", "PCX", "TGA", "JPEG2000", "EPS"])
def test_no_other_decoder_is_reached(kind: str, tmp_path: Path) -> None:
    data = encoded(noise(64, 64), kind)
    (tmp_path / "disguised.png").write_bytes(data)
    for source in (data, tmp_path / "disguised.png"):
        with pytest.raises(ImageError, match="use a JPEG, PNG, WebP, BMP, TIFF,"):
            open_photo(source)


@pytest.mark.parametrize("path", ["missing.png", ".", "", "nul\0byte.png", "~nosuchuser/x.png", "x" * 300], ids=lambda p: p[:12] or "empty")
def test_a_path_without_a_file_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=ADVICE):
        open_photo(path)


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(encoded(noise(), "PNG"))

    def denied(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ImageError):
        open_photo(tmp_path / "x.png")


@pytest.mark.parametrize("source", [None, 5, np.zeros((9,), np.uint8)], ids=["None", "number", "array"])
def test_an_object_that_is_not_a_picture_is_refused_when_opened(source: object) -> None:
    with pytest.raises(ImageError):
        open_image(source)


# Damage


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "wrong",
    [(0x011A, 2, 4, b"abc\0"), (0x0100, 2, 4, b"abc\0"), (0x010E, 5, 1, bytes(4)), (0x8769, 4, 1, b"\xff\xff\xff\x7f")],
    ids=["text for a ratio", "text for a number", "ratio for a text", "section out of bounds"],
)
def test_wrong_metadata_affects_neither_pixels_nor_orientation(wrong: tuple, kind: str) -> None:
    exif = tiff(sorted([(ORIENTATION, 3, 1, struct.pack("<HH", 6, 0)), wrong]))
    stored = np.ascontiguousarray(blocks().swapaxes(0, 1)[::-1])
    found = pixels(encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert found.shape == blocks().shape
    assert np.abs(found - blocks()).mean() <= 4


FUZZED = {
    "JPEG": lambda: encoded(noise(24, 20), "JPEG"),
    "PNG": lambda: encoded(noise(24, 20), "PNG"),
    "WEBP": lambda: encoded(noise(24, 20), "WEBP"),
    "lossless WEBP": lambda: encoded(noise(24, 20), "WEBP", lossless=True),
    "palette PNG": lambda: encoded(Image.fromarray(noise(24, 20)).convert("P"), "PNG", transparency=3),
    "animated WEBP": lambda: encoded(noise(24, 20), "WEBP", save_all=True, append_images=[Image.fromarray(noise(24, 20, 1))]),
    "BMP": lambda: encoded(noise(24, 20), "BMP"),
    "TIFF": lambda: encoded(noise(24, 20), "TIFF"),
    "LZW TIFF": lambda: encoded(noise(24, 20), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", FUZZED)
@pytest.mark.filterwarnings("ignore")
def test_a_file_with_a_corrupted_byte_is_opened_or_refused(kind: str) -> None:
    dice = random.Random(0)
    data = FUZZED[kind]()
    opened = 0
    for _ in range(200):
        corrupted = bytearray(data)
        corrupted[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        with suppress(ImageError):
            assert open_photo(bytes(corrupted)).image.mode == "RGB"
            opened += 1
    assert 0 < opened < 200


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_a_file_with_a_corrupted_byte_of_metadata_is_opened_or_refused(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E], exif[0x011A], exif[0x0132] = 6, "text", 72.0, "2020"
    dice = random.Random(0)
    data = encoded(noise(24, 20), kind, exif=exif)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    start = data.index(block)
    for _ in range(800):
        corrupted = bytearray(data)
        corrupted[start + dice.randrange(len(block))] ^= dice.randrange(1, 256)
        with suppress(ImageError):
            assert open_photo(bytes(corrupted)).image.mode == "RGB"


# Masks as the network sees them

FITS = ["centre", "squash", "border"]
SHAPES = [(300, 200), (200, 300), (40, 30), (64, 64), (1200, 50), (51, 1237), (333, 97)]


def disc(width: int, height: int) -> np.ndarray:
    """An ellipse that lies off the centre."""
    y, x = np.mgrid[:height, :width]
    return ((x + 0.5) / width - 0.45) ** 2 + ((y + 0.5) / height - 0.55) ** 2 < 0.3**2


@pytest.mark.parametrize("crop", [0.875, 1.0, 1.5])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_matches_the_view_of_a_picture_of_it(fit: str, shape: tuple[int, int], size: tuple[int, int], crop: float) -> None:
    mask = noise(shape[1], shape[0])[..., 0] > 127
    preprocessing = Preprocessing(size, mean=(0, 0, 0), interpolation="nearest", crop=crop, fit=fit)
    view = np.asarray(preprocessing.view(Image.fromarray(mask)))[..., 0] > 0
    found = preprocessing.mask(mask, shape)
    assert found.dtype == torch.bool
    assert found.shape == size
    assert 0 < view.mean() < 1
    assert (found.numpy() == view).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 64), (333, 197)])
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_covers_its_object_in_the_view_but_for_the_edge(fit: str, shape: tuple[int, int], interpolation: str) -> None:
    mask = disc(*shape)
    preprocessing = Preprocessing((64, 64), interpolation=interpolation, crop=0.875, fit=fit)
    seen = np.asarray(preprocessing.view(Image.fromarray(mask)))[..., 2] > 127
    found = preprocessing.mask(mask, shape).float()[None, None]
    grown = torch.nn.functional.max_pool2d(found, 3, 1, 1)[0, 0].numpy() > 0
    shrunk = torch.nn.functional.max_pool2d(-found, 3, 1, 1)[0, 0].numpy() < 0
    assert 0.05 < shrunk.mean() < grown.mean() < 0.95
    assert (grown | ~seen).all()
    assert (seen | ~shrunk).all()


def test_added_borders_are_not_part_of_the_object() -> None:
    found = Preprocessing((64, 64), crop=1.0, fit="border").mask(np.ones((100, 200)), (200, 100))
    assert found.nonzero()[:, 0].unique().tolist() == list(range(16, 48))
    assert found[16:48].all()


@pytest.mark.parametrize("shape", [(30, 40), (40, 31), (40, 30, 1), (1200,)])
def test_a_mask_of_another_size_than_its_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="give a mask of the same size"):
        Preprocessing((64, 64)).mask(np.ones(shape, bool), (30, 40))
