"""Spec of retraining (ROAR and KAR): networks trained on images without the pixels that methods hold relevant, or with only those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, nested, param
from attrlib.specs.codec import Spec, options_of
from attrlib.specs.method import MethodSpec, methods_param
from attrlib.specs.model import ModelSpec
from attrlib.specs.run import DATA_HELP, IN_MEMORY, classes_param, seed_param
from attrlib.specs.text import MOST, read_list
from attrlib.specs.view import SIGNS

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
NET = "attrlib:small_resnet10_w16"
DATA_MEAN = "data-mean"
"""The baseline of the paper: the mean colour of the training images."""
ROAR_BASELINES = (DATA_MEAN, "zeros", "random", "blur", "mean", "linear", "border", "inpainting")
"""The baselines: that of the paper, and those of `attrlib.deletion`."""


def parse_shares(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of shares.

    Raises:
        SpecError: If an entry is not a number, or there is none.
    """
    return read_list(text, _parse_share, "no share given; write for example 0.1,0.5,0.9")


def _parse_share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{text.strip()[:40]!r} is not a share; write for example 0.1,0.5,0.9") from None


def _check_shares(shares: Sequence[float]) -> None:
    if not shares:
        raise SpecError("no share given; write for example 0.1,0.5,0.9")
    for share in shares:
        if share == 0:
            raise SpecError("share 0 replaces nothing; leave it out: every curve begins with networks trained on the images as they are")
        if share == 1:
            raise SpecError("share 1 replaces every pixel, so that all images are the same; give shares below 1, such as 0.9")
        if not 0 < share < 1 or math.isnan(share):
            raise SpecError(f"share {share:g} is not valid: give shares of the pixels between 0 and 1, such as 0.1,0.5,0.9")
    if any(low >= high for low, high in pairwise(shares)):
        raise SpecError(f"the shares {write_shares(shares)} are not in increasing order, each once; sort them")


def write_shares(shares: Sequence[float]) -> str:
    """Return shares as a comma-separated list."""
    return ",".join(f"{share:g}" for share in shares)


@dataclass(frozen=True)
class RoarSpec(Spec):
    """Remove and retrain (ROAR), and keep and retrain (KAR), for some methods on a model and a data set.

    For every share and seed, a network is trained from random weights and tested on images in which the most relevant share of the
    pixels is replaced (ROAR), or with `keep` also the least relevant share (KAR).
    """

    command: ClassVar[str] = "roar"
    noun: ClassVar[str] = "retraining"

    model: ModelSpec = nested(ModelSpec)
    data: str = param(
        REQUIRED,
        DATA_HELP,
        missing="no data given: add for example --data birds; python -m attrlib datasets lists named data sets",
    )
    methods: tuple[MethodSpec, ...] = methods_param()
    keep: bool = param(False, "Also keep and retrain (KAR): replace the least relevant pixels", label="Also KAR")
    shares: tuple[float, ...] = param(
        SHARES,
        "Shares of the pixels to replace, between 0 and 1, separated by commas",
        read=parse_shares,
        write=write_shares,
        check=_check_shares,
    )
    seeds: int = param(5, "Trainings for each method and share, each from other random weights", low=1, high=1000, label="Trainings")
    limit: int = param(
        1000, "Maximum number of images, drawn with the seed; some of each class test the networks", low=4, high=MOST, label="Images"
    )
    test: float = param(0.25, "Share of the images of each class that test the networks", low=0.05, high=0.9, label="Share of test images")
    net: str = param(NET, "Architecture of the networks to train, as of a model", label="Network to train")
    size: int = param(
        64, "Shorter side in pixels of the images to train on; at most that of the model's input", low=8, high=2048, label="Size in pixels"
    )
    epochs: int = param(10, "Passes over the training images", low=1, high=10_000)
    batch: int = param(32, "Images per step", low=2, high=65_536)
    lr: float = param(0.1, "Learning rate, which rises over a tenth of the steps and then decays to 0 along a cosine", low=0.0, high=100.0)
    flip: bool = param(True, "Mirror half of the training images")
    baseline: str = param(
        DATA_MEAN,
        "What replaces pixels: the mean colour of the training images, or a baseline of deletion protocols",
        choices=ROAR_BASELINES,
    )
    target: str = param("prediction", "Class to explain: the model's prediction, or the image's label", choices=("prediction", "label"))
    sign: str = param("signed", "Rank pixels by the map as it is, its positive part, or its magnitude", choices=SIGNS)
    seed: int = seed_param()
    classes: str = classes_param()

    def cli(self, out: str = "") -> str:
        return super().cli(out) + (f"  # {self._only_in_memory}" if self.in_memory else "")

    @property
    def in_memory(self) -> bool:
        """Return whether the data set exists only in memory, so that no command, link or other process can load it."""
        return self.data.startswith(IN_MEMORY)

    @property
    def _only_in_memory(self) -> str:
        return f"{self.data} is a data set in memory: load it in Python as before, and pass it to attrlib.roar"

    def snippet(self) -> str:
        """Return equivalent Python code."""
        data = f"...  # {self._only_in_memory}" if self.in_memory else f"attrlib.load_dataset({self.data!r})"
        options = self.keywords(["shares", *(p.name for p in options_of(RoarSpec))])
        lines = ["import attrlib", "", f"model = attrlib.load_model({self.model.arguments()})", f"data = {data}"]
        lines += [f"result = attrlib.roar(model, data, {[str(m) for m in self.methods]}{options})"]
        return "\n".join([*lines, "for row in result.table():", "    print(row)"])
