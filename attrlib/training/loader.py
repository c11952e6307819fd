"""Load training images, cropped and mirrored at random, a few batches ahead of the training."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.data.datasets import Dataset
from attrlib.errors import DataError, ImageError
from attrlib.models import Preprocessing
from attrlib.models.preprocessing import INTERPOLATIONS
from attrlib.specs import digest
from attrlib.training.recipe import Recipe

AHEAD = 4


class TrainLoader:
    """Batches of a data set for training. The crop of an image depends only on the seed, the epoch and the image's index.

    Args:
        data: The data set; images without a label are left out.
        classes: The model's class for each class of the data.
        preprocessing: Gives the size and the interpolation.
        recipe: Settings of the training.
        count: Number of the model's classes.
        threads: Threads that load images.

    Attributes:
        failed: Error messages by index of the images that could not be read and were left out of their batches.

    Raises:
        DataError: No image has a label.
    """

    def __init__(self, data: Dataset, classes: Sequence[int], preprocessing: Preprocessing, recipe: Recipe, count: int, threads: int = 2):
        self.failed: dict[int, str] = {}
        self._count = count
        self._data, self._classes, self._preprocessing, self._recipe, self._threads = data, classes, preprocessing, recipe, threads
        labelled = [i for i in range(len(data)) if data.labels(i)]
        if not labelled:
            raise DataError(f"{data.name} has no labelled images to train on; choose a folder of class folders, or a CSV file with labels")
        drawn = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
        used = drawn[: max(1, round(recipe.fraction * len(labelled)))]
        self.indices = sorted(labelled[k] for k in used)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def steps(self) -> int:
        """Return the number of batches in an epoch; the last, incomplete one is left out unless it is the only one."""
        return max(1, len(self.indices) // self._recipe.batch)

    def epoch(self, number: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of one epoch, in an order drawn for the epoch.

        Args:
            number: The epoch.
            rank: Index of this process, which gets its share of each batch.
            world: Number of processes.

        Yields:
            Images (b,C,H,W), whose white is 255, and the model's class of each (b,), or, of data with several labels, which of the
            model's classes are present, boolean, (b,count).
        """
        generator = torch.Generator().manual_seed(int(digest(self._recipe.seed, "order", number)[:15], 16))
        order = [self.indices[k] for k in torch.randperm(len(self.indices), generator=generator).tolist()]
        size = self._recipe.batch
        batches = [order[step * size : (step + 1) * size][rank::world] for step in range(self.steps)]
        with ThreadPoolExecutor(self._threads, "attrlib-loader") as pool:
            waiting: deque[list[Future[tuple[Tensor, Tensor] | None]]] = deque()
            for batch in batches:
                waiting.append([pool.submit(self._load, index, number) for index in batch])
                if len(waiting) > AHEAD:
                    yield _collect(waiting.popleft())
            while waiting:
                yield _collect(waiting.popleft())

    def _load(self, index: int, epoch: int) -> tuple[Tensor, Tensor] | None:
        try:
            item = self._data[index]
            source = self._preprocessing.source(item)
        except ImageError as error:
            self.failed[index] = str(error)
            return None
        rng = np.random.default_rng(int(digest(self._recipe.seed, epoch, index)[:15], 16))
        height, width = self._preprocessing.size
        box = random_box(item.image.size, width / height, self._recipe.scale, rng)
        cropped = self._cropped(source, box)
        if self._recipe.flip and rng.random() < 0.5:
            cropped = cropped[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(cropped)).permute(2, 0, 1), self._target(index)

    def _target(self, index: int) -> Tensor:
        classes = [self._classes[label] for label in self._data.labels(index)]
        if not self._data.multi_label:
            return torch.tensor(classes[0])
        return torch.from_numpy(np.isin(np.arange(self._count), classes))

    def _cropped(self, source: Image.Image | Iterator[np.ndarray], box: tuple[float, float, float, float]) -> np.ndarray:
        """Return the crop (H,W,C) at the input size: uint8, or float32 for pictures of other bands or more bits."""
        size, resample = self._preprocessing.size[::-1], INTERPOLATIONS[self._preprocessing.interpolation]
        if not isinstance(source, Image.Image):
            return 255 * np.stack([np.asarray(Image.fromarray(plane).resize(size, resample, box=box)) for plane in source], axis=-1)
        resized = source.resize(size, resample, box=box)
        if self._preprocessing.channels == 1:
            return np.array(resized.convert("L"))[..., None]
        return np.array(resized)


def random_box(size: tuple[int, int], aspect: float, least: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a random crop of a picture as torchvision's RandomResizedCrop does.

    Its area is U(least, 1) of the picture's, and its aspect ratio exp(U(log 3/4, log 4/3)) times that of the input. After ten failed
    draws, and if `least` is 1, it is the largest centred crop with the input's aspect ratio.

    Args:
        size: Width and height of the picture in pixels.
        aspect: Width of the input over its height.
        least: Minimum share of the picture's area.
        rng: Random generator.

    Returns:
        Left, top, right and bottom in pixels.
    """
    width, height = size
    for _ in range(10 if least < 1 else 0):
        area = width * height * rng.uniform(least, 1)
        ratio = aspect * np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        wide, tall = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if wide <= width and tall <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
            return left, top, left + wide, top + tall
    wide, tall = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall


def _collect(futures: Sequence[Future[tuple[Tensor, Tensor] | None]]) -> tuple[Tensor, Tensor]:
    loaded = [result for future in futures if (result := future.result()) is not None]
    if not loaded:
        return torch.empty(0, 1, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.long)
    return torch.stack([image for image, _ in loaded]), torch.stack([target for _, target in loaded])
