"""The sample photos as a data set."""

import importlib.util
import os

from attrlib.data.datasets import Dataset, DatasetInfo, FileDataset, named
from attrlib.data.folders import Listing
from attrlib.data.samples import PREFIX, SAMPLES
from attrlib.errors import DataError

PHOTO_CLASSES = {"coffee": "n07920052", "camera": "n04485082"}
"""WNIDs of the sample photos that clearly show exactly one ImageNet class: espresso and tripod.

The cat may be a tabby or a tiger cat, the motorcycle is not a moped, and the rocket is not a missile. The others show no ImageNet class.
"""


@named(DatasetInfo("photos", "Sample photos of scikit-image", len(SAMPLES), len(PHOTO_CLASSES), labelled=True))
def _photos(name: str) -> Dataset:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError("the photos come with scikit-image, which is not installed; run pip install scikit-image")
    classes = tuple(sorted(PHOTO_CLASSES.values()))
    labels = [(classes.index(PHOTO_CLASSES[n]),) if n in PHOTO_CLASSES else () for n in SAMPLES]
    folder = os.path.join(os.path.dirname(package.origin), "data")
    return FileDataset(name, Listing(folder, list(SAMPLES.values()), [PREFIX + n for n in SAMPLES], classes, labels))
