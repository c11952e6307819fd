"""Pictures of other bands and depths than 8-bit RGB: what is read from files is what NumPy, tifffile or the standard says."""

import hashlib
import io
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from attrlib.bands import bands_of
from attrlib.data.datasets import load_dataset
from attrlib.data.digests import file_digest
from attrlib.data.images import open_photo
from attrlib.errors import ImageError

SHAPE = (20, 30)
TYPES = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}


def values(bands: int = 0, kind: str = "uint16", seed: int = 0) -> np.ndarray:
    """Random values (H,W) or (H,W,bands)."""
    rng, shape = np.random.default_rng(seed), (*SHAPE, bands) if bands else SHAPE
    return rng.random(shape, dtype=np.float32) if kind == "float32" else rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file.getvalue()


def found(source: object) -> np.ndarray:
    """The values of a picture, from its bands or, where it has none, its image."""
    photo = open_photo(source)
    assert photo.image.mode == "RGB"
    return np.asarray(photo.image) if photo.bands is None else photo.bands.values


# TIFF


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bands", [2, 4, 12])
@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "compression": "zlib"},
        {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib"},
        {"planarconfig": "contig", "rowsperstrip": 7, "byteorder": ">"},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 3},
        {"planarconfig": "separate", "tile": (16, 32)},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_every_band_of_a_tiff_has_its_values(kind: str, bands: int, options: dict) -> None:
    array = values(bands, kind)
    stored = array if options["planarconfig"] == "contig" else np.ascontiguousarray(np.moveaxis(array, 2, 0))
    photo = open_photo(tiff(stored, extrasamples=["unspecified"] * (bands - 1), **options))
    assert photo.bands is not None
    assert photo.bands.values.dtype == array.dtype
    assert (photo.bands.values == array).all()
    assert any(f"{bands} bands: shown by" in note for note in photo.notes)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("bands", [0, 3])
def test_16_bits_are_read_at_full_depth(bands: int, predictor: bool) -> None:
    array = values(bands)
    options = {"photometric": "rgb" if bands else "minisblack", "compression": "zlib", "predictor": predictor}
    photo = open_photo(tiff(array, **options))
    assert (found(tiff(array, **options)).squeeze() == array).all()
    assert "16 bits per channel, read at full depth: 65535 is white" in photo.notes
    assert np.abs(np.asarray(photo.image) - (array if bands else array[..., None]) / 257).max() <= 0.51


def test_a_dark_16_bit_picture_is_noted() -> None:
    assert "although the largest value is 4000" in open_photo(tiff(np.full(SHAPE, 4000, np.uint16))).notes[0]


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", None])
@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_one_deep_band_of_any_compression_is_read(mode: str, compression: str | None) -> None:
    array = values(0, "uint16" if mode == "I;16" else "float32")
    file = io.BytesIO()
    Image.fromarray(array).save(file, "TIFF", compression=compression)
    assert (found(file.getvalue())[..., 0] == array).all()


def test_white_is_zero_is_inverted() -> None:
    array = values()
    assert (found(tiff(array, photometric="miniswhite"))[..., 0] == 65535 - array).all()


def test_only_the_first_page_is_read_with_a_note() -> None:
    pages = np.stack([values(seed=s) for s in range(3)])
    photo = open_photo(tiff(pages))
    assert (photo.bands.values[..., 0] == pages[0]).all()
    assert "several pages: the first one is used" in photo.notes
    eight = np.stack([values(3, "uint8", s) for s in range(2)])
    assert (found(tiff(eight, photometric="rgb")) == eight[0]).all()


def test_a_fourth_band_that_is_no_opacity_is_a_band() -> None:
    array = values(4, "uint8")
    photo = open_photo(tiff(array, photometric="rgb", extrasamples=["unspecified"]))
    assert (photo.bands.values == array).all()
    assert not photo.bands.alpha
    assert (np.asarray(photo.image) == array[..., :3]).all()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_an_opacity_composes_on_white_and_is_kept_as_a_band(kind: str) -> None:
    array = values(4, kind)
    photo = open_photo(tiff(array, photometric="rgb", extrasamples=["unassalpha"]))
    shares = array / np.iinfo(kind).max
    assert photo.bands.alpha
    assert (photo.bands.values == array).all()
    assert np.abs(np.asarray(photo.image) - 255 * (shares[..., :3] * shares[..., 3:] + 1 - shares[..., 3:])).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_gives_the_upright_picture(orientation: int) -> None:
    deep, plain = values(5), values(3, "uint8")
    tag = (274, "H", 1, orientation, True)
    reference = io.BytesIO()
    Image.fromarray(plain).save(reference, "TIFF", tiffinfo={274: orientation})
    upright = found(reference.getvalue())
    turned = found(tiff(plain, photometric="rgb", extratags=[tag]))
    assert (turned == upright).all()
    # Turning bands is turning each of them, which the 8-bit picture shows.
    order = np.arange(plain[..., 0].size, dtype=np.uint16).reshape(SHAPE)
    where = found(tiff(order, extratags=[tag]))[..., 0]
    assert (found(tiff(deep, planarconfig="contig", extratags=[tag])) == deep.reshape(-1, 5)[where]).all()
    assert (plain.reshape(-1, 3)[where] == upright).all()


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_other_deep_colour_spaces_are_refused(photometric: str) -> None:
    array = values(4 if photometric == "separated" else 3)
    with pytest.raises(ImageError, match=f"photometric interpretation {photometric.upper()}.* save it as grey or RGB bands"):
        open_photo(tiff(array, photometric=photometric, planarconfig="contig"))


def test_a_strip_that_inflates_beyond_its_size_is_refused_before_it_is_inflated() -> None:
    data = bytearray(tiff(values(12), planarconfig="contig", compression="zlib"))
    bomb = zlib.compress(bytes(50 << 20), 9)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        places = {tags["StripOffsets"]: len(data), tags["StripByteCounts"]: len(bomb)}
        for tag, value in places.items():
            struct.pack_into("<I" if tag.dtype == tifffile.DATATYPE.LONG else "<H", data, tag.valueoffset, value)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="a strip holds more data than the header says"):
            open_photo(bytes(data + bomb))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# PNG


def png(array: np.ndarray, filters: Callable[[int], int] = lambda _row: 0) -> bytes:
    """Encode 16-bit values as PNG, by the specification: one filter for each row."""
    rows, previous, step = [], bytes(array.shape[1] * array.shape[2] * 2), array.shape[2] * 2
    for number, row in enumerate(array.astype(">u2")):
        raw, kind = row.tobytes(), filters(number)
        left = bytes(step) + raw[:-step]
        corner = bytes(step) + previous[:-step]
        predicted = {
            0: bytes(len(raw)),
            1: left,
            2: previous,
            3: bytes((a + b) // 2 for a, b in zip(left, previous, strict=True)),
            4: bytes(map(paeth, left, previous, corner)),
        }[kind]
        rows.append(bytes([kind]) + bytes((x - p) & 255 for x, p in zip(raw, predicted, strict=True)))
        previous = raw
    height, width, bands = array.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[bands], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


def paeth(a: int, b: int, c: int) -> int:
    distances = [abs(b - c), abs(a - c), abs(a + b - 2 * c)]
    return (a, b, c)[distances.index(min(distances))]


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_16_bit_png_is_read_at_full_depth(bands: int) -> None:
    array = values(bands)
    for data in (png(array), png(array, lambda row: row % 5)):
        assert (found(data) == array).all()


def test_an_image_of_which_pillow_drops_bits_is_noted() -> None:
    (note,) = open_photo(Image.open(io.BytesIO(png(values(3))))).notes
    assert "of which Pillow keeps 8: give the file instead" in note


def test_the_digest_of_a_file_says_that_it_is_read_at_full_depth(tmp_path: Path) -> None:
    plain, deep = tmp_path / "plain.png", tmp_path / "deep.png"
    Image.fromarray(values(3, "uint8")).save(plain)
    deep.write_bytes(png(values(3)))
    bytewise = {path: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in (plain, deep)}
    assert file_digest(str(plain), "x") == bytewise[plain]
    assert file_digest(str(deep), "x") != bytewise[deep]


# Arrays


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bands", [1, 3, 4, 12])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("way", ["array", "file"])
def test_arrays_have_their_values_in_either_order(kind: str, bands: int, first: bool, way: str, tmp_path: Path) -> None:
    array = values(bands, kind)
    stored = np.moveaxis(array, 2, 0) if first else array
    np.save(tmp_path / "x.npy", stored)
    photo = open_photo(stored if way == "array" else tmp_path / "x.npy")
    if photo.bands is None:
        assert kind == "uint8"
        assert (np.asarray(photo.image) == array).all()
    else:
        assert photo.bands.values.dtype == array.dtype
        assert (photo.bands.values == array).all()


@pytest.mark.parametrize("kind", [">u2", "<u2", ">f4", np.float64, np.float16, bool])
def test_other_types_have_the_same_values(kind: object) -> None:
    array = values(4, "float32").round() if kind is bool else values(4, "float32") * (1 if "f" in np.dtype(kind).str else 60000)
    array = array.astype(kind)
    bands, _ = bands_of(array, "x")
    assert bands.values.dtype.isnative
    assert (bands.values == (array * 255 if kind is bool else array.astype(np.float32))).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((9, 9, 9)), "array of shape 9 x 9 x 9, not one picture"),
        (np.zeros((2, 30, 20, 3)), "array of shape 2 x 30 x 20 x 3, not one picture"),
        (np.zeros(30), "array of shape 30, not one picture"),
        (np.zeros((30, 20), complex), "values of type complex128"),
        (np.full((30, 20), np.nan), "NaN or infinite"),
        (np.full((30, 20), np.inf), "NaN or infinite"),
        (np.zeros((30, 4)), "at least 8 px"),
        (np.zeros((0, 0)), "at least 8 px"),
    ],
)
def test_an_array_that_is_not_a_picture_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        open_photo(array)
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(ImageError):
        open_photo(file.getvalue())


class Trap:
    def __reduce__(self) -> tuple:
        return pytest.fail, ("unpickled",)


def test_a_file_of_objects_is_refused_without_unpickling() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[Trap()] * 20] * 20), allow_pickle=True)
    with pytest.raises(ImageError, match="type object, not one picture"):
        open_photo(file.getvalue())


# DICOM


def dicom(array: np.ndarray, frames: int = 1, syntax: str = ExplicitVRLittleEndian, pixels: bytes = b"", **fields: object) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = SHAPE
    dataset.SamplesPerPixel = array.shape[-1] if array.shape[-1] == 3 else 1
    dataset.BitsAllocated = dataset.BitsStored = array.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels or array.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def window(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """The linear window of DICOM PS3.3 C.11.2.1.2.1, onto [0,1]."""
    return (((x - (centre - 0.5)) / (width - 1)) + 0.5).clip(0, 1)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize("inverted", [False, True])
def test_dicom_goes_through_rescaling_window_and_inversion(kind: type, inverted: bool) -> None:
    array = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(kind)
    data = dicom(
        array,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=[40, 300],
        WindowWidth=[400, 2000],
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    photo = open_photo(data)
    expected = window(2.0 * array - 1024, 40, 400)
    assert np.abs(photo.bands.values[..., 0] - (1 - expected if inverted else expected)).max() < 1e-6
    assert photo.bands.values.dtype == np.float32
    assert "centre 40, width 400" in photo.notes[-1]
    assert np.abs(np.asarray(photo.image)[..., 1] - 255 * photo.bands.values[..., 0]).max() <= 0.51


def test_dicom_without_a_window_spans_its_values_with_a_note() -> None:
    array = values()
    photo = open_photo(dicom(array))
    low, high = int(array.min()), int(array.max())
    assert np.abs(photo.bands.values[..., 0] - (array.astype(float) - low) / (high - low)).max() < 1e-6
    assert f"the values {low} to {high} of this picture become 0 to 1" in photo.notes[0]


def test_dicom_of_colours_and_frames() -> None:
    colours = values(3, "uint8")
    assert (found(dicom(colours)) == colours).all()
    frames = np.stack([values(seed=s) for s in range(3)])
    photo, alone = open_photo(dicom(frames, frames=3)), open_photo(dicom(frames[0]))
    assert (photo.bands.values == alone.bands.values).all()
    assert photo.notes[0] == "several frames: the first one is used"


def test_a_baseline_jpeg_in_dicom_is_read_if_its_size_is_that_of_the_header() -> None:
    grey = Image.fromarray(np.linspace(0, 255, 600).reshape(SHAPE).astype(np.uint8))
    jpeg = io.BytesIO()
    grey.save(jpeg, "JPEG", quality=95)
    pixels = encapsulate([jpeg.getvalue()])
    options = {"syntax": JPEGBaseline8Bit, "pixels": pixels, "WindowCenter": 128, "WindowWidth": 256}
    found = open_photo(dicom(np.asarray(grey), **options)).bands.values[..., 0]
    assert np.abs(255 * found - np.asarray(Image.open(jpeg))).max() < 1
    with pytest.raises(ImageError, match="another size than its header says"):
        open_photo(dicom(np.asarray(grey), Rows=21, **options))
    with pytest.raises(ImageError, match="compressed with RLE Lossless, which is not read; save it uncompressed"):
        open_photo(dicom(np.asarray(grey), **options | {"syntax": RLELossless}))


def test_a_deflated_dicom_file_is_refused_before_it_is_inflated() -> None:
    with pytest.raises(ImageError, match="a deflated DICOM file; save it with another transfer syntax"):
        open_photo(dicom(values(), syntax=DeflatedExplicitVRLittleEndian))


def test_a_dicom_file_without_pixels_or_too_large_is_refused() -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom(values())))
    del dataset.PixelData
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    with pytest.raises(ImageError, match="without pixel data"):
        open_photo(file.getvalue())
    with pytest.raises(ImageError, match="more than 50 million"):
        open_photo(dicom(values(), Rows=60000, Columns=60000))


def test_without_pydicom_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"needs pydicom; run pip install attrlib\[dicom\]"):
        open_photo(dicom(values()), "scan.dcm")


# Damage


@pytest.mark.parametrize("kind", ["tiff", "deflated tiff", "png", "npy", "dicom"])
@pytest.mark.filterwarnings("ignore")
def test_a_file_with_a_corrupted_byte_is_opened_or_refused(kind: str) -> None:
    array, file = values(4), io.BytesIO()
    np.save(file, array)
    data = {
        "tiff": lambda: tiff(array, planarconfig="contig"),
        "deflated tiff": lambda: tiff(array, planarconfig="contig", compression="zlib"),
        "png": lambda: png(array),
        "npy": file.getvalue,
        "dicom": lambda: dicom(array[..., 0].copy(), WindowCenter=3, WindowWidth=5),
    }[kind]()
    rng, refused = np.random.default_rng(0), 0
    # Most faults that matter are in the headers, at the start of the file.
    for at in [*rng.integers(0, min(len(data), 600), 300), *rng.integers(0, len(data), 50)]:
        corrupted = bytearray(data)
        corrupted[at] ^= int(rng.integers(1, 256))
        try:
            assert open_photo(bytes(corrupted)).image.mode == "RGB"
        except ImageError:
            refused += 1
    assert 0 < refused < 350
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError):
            open_photo(data[: int(share * len(data))])


# Data sets


def test_a_folder_of_bands_is_a_data_set_with_ids_of_its_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.tif").write_bytes(tiff(values(12, seed=ord(name)), planarconfig="contig"))
        np.save(tmp_path / name / "2.npy", values(12, seed=ord(name) + 10))
    data = load_dataset(str(tmp_path))
    assert [item.label for item in data] == [0, 0, 1, 1]
    assert (data[2].bands.values == values(12, seed=ord("b"))).all()
    assert len({item.id for item in data}) == 4
    assert len({open_photo(tmp_path / "a" / name).digest for name in ("1.tif", "2.npy")}) == 2
