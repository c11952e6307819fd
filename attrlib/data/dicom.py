"""Reading of DICOM files, with pydicom where it is installed."""

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from attrlib.bands import Bands, bands_of
from attrlib.data.limits import check_size
from attrlib.errors import ImageError

MAGIC, MAGIC_AT = b"DICM", 128
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def read_dicom(file: BinaryIO, name: str) -> tuple[Bands, list[str]]:
    """Read the first frame of a DICOM file.

    Grey values go through the modality transform and the first window, to [0,1]; MONOCHROME1 is inverted, so that 1 is white. Without a
    window the smallest value of the picture becomes 0 and the largest 1.

    Args:
        file: The file, from its beginning.
        name: What messages call it.

    Raises:
        ImageError: pydicom is not installed, or the file holds no picture that can be read. Damaged files raise other exceptions, too.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, pixel_array
    except ImportError:
        raise ImageError(f"{name} is a DICOM file, which needs pydicom; run pip install attrlib[dicom]") from None
    data = file.read()
    # pydicom inflates the whole file at once, however large it becomes.
    if _DEFLATED in data:
        raise ImageError(f"{name} is a deflated DICOM file; save it with another transfer syntax, such as Explicit VR Little Endian")
    file.seek(0)
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset:
        raise ImageError(f"{name} is a DICOM file without pixel data; give one with a picture")
    samples = int(dataset.get("SamplesPerPixel", 1))
    check_size(name, int(dataset.Columns), int(dataset.Rows), samples * int(dataset.BitsAllocated) / 8)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    notes = ["several frames: the first one is used"] if frames > 1 else []
    _check_compression(dataset, frames, name)
    values = pixel_array(dataset, index=0)
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation in ("MONOCHROME1", "MONOCHROME2"):
        shares, note = _windowed(values, dataset)
        shares = 1 - shares if interpretation == "MONOCHROME1" else shares
        return Bands(shares.clip(0, 1).astype(np.float32)[..., None]), [*notes, note]
    if interpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)[..., :3]
    elif interpretation != "RGB" and not interpretation.startswith("YBR"):
        raise ImageError(f"{name} is a DICOM file with {interpretation} pixels, which are not read; save it as MONOCHROME2 or RGB")
    bands, more = bands_of(values, name)
    return bands, notes + more


def _check_compression(dataset: Any, frames: int, name: str) -> None:
    """Raise `ImageError` unless the pixels are uncompressed, or a baseline JPEG of the size that the header says.

    Other decoders would have to be trusted with these bytes, and could decode more than the header says.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEGBaseline8Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    if syntax != JPEGBaseline8Bit:
        raise ImageError(
            f"{name} is compressed with {syntax.name}, which is not read; save it uncompressed, for example with gdcmconv --raw"
        )
    with Image.open(io.BytesIO(get_frame(dataset.PixelData, 0, number_of_frames=frames)), formats=("JPEG",)) as picture:
        if picture.size != (dataset.Columns, dataset.Rows):
            raise ImageError(f"{name} holds a picture of another size than its header says; save it again")


def _windowed(values: np.ndarray, dataset: Any) -> tuple[np.ndarray, str]:
    """Return grey values through the modality and the first VOI transform, the range of its output as [0,1], and a note on it."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    values = np.asarray(apply_modality_lut(values, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        top = 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return apply_voi(np.rint(values).astype(np.int64), dataset) / top, "DICOM: read through the first lookup table of the file"
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        # Values far outside give the ends of the output range, which depends on the stored bits and the rescaling.
        with np.errstate(over="ignore"):
            low, high = apply_windowing(np.array([-1e30, 1e30]), dataset)
        centre, width = (float(np.atleast_1d(dataset[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
        return (apply_windowing(values, dataset) - low) / (
            high - low
        ), f"DICOM: read through its window, centre {centre:g}, width {width:g}"
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12), f"DICOM without a window: the values {low:g} to {high:g} of this picture become 0 to 1"
