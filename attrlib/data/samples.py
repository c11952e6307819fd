"""Sample photos that scikit-image ships inside its wheel, so that nothing has to be downloaded or copied."""

import importlib.util
from pathlib import Path

from attrlib.data.images import Photo, open_photo
from attrlib.errors import ImageError, unknown

PREFIX = "sample:"
SAMPLES = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
    "clock": "clock_motion.png",
    "coins": "coins.png",
}


def open_sample(name: str) -> Photo:
    """Open a sample photo by name, with or without the prefix `sample:`.

    Raises:
        ImageError: If the name is unknown, or scikit-image is not installed.
    """
    short = name.removeprefix(PREFIX)
    if short not in SAMPLES:
        raise ImageError(unknown("sample photo", short, SAMPLES))
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ImageError("the sample photos come with scikit-image, which is not installed; run pip install scikit-image")
    return open_photo(Path(package.origin).parent / "data" / SAMPLES[short], name=f"{PREFIX}{short}")
