"""Pictures in memory and a small network, for training."""

from collections.abc import Sequence

# isort: split
import numpy as np
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

from attrlib.data.datasets import Dataset, Item
from attrlib.errors import ImageError

HALF = (0.5, 0.5, 0.5)


COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60), (60, 190, 190))


class Pictures(Dataset):
    """Pictures in memory; those in `broken` cannot be read."""

    def __init__(
        self, images: Sequence[Image.Image], labels: Sequence[int | None], classes: int, broken: Sequence[int] = (), name: str = "p"
    ):
        self.name, self.class_names = name, tuple(f"kind {k}" for k in range(classes))
        self.images, self.kinds, self.broken = images, labels, set(broken)

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        if index in self.broken:
            raise ImageError(f"picture {index} is broken")
        return Item(self.images[index], self.kinds[index], str(index), str(index))

    def label(self, index: int) -> int | None:
        return self.kinds[index]

    def item_id(self, index: int) -> str:
        return str(index)


def noise(seed: int, side: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def coloured(each: int, start: int = 0, name: str = "p", broken: Sequence[int] = ()) -> Pictures:
    """Return `each` pictures of each of five colours, with noise."""
    images, labels = [], []
    for number in range(start, start + each):
        for k, colour in enumerate(COLOURS):
            grain = np.random.default_rng([k, number]).normal(0, 25, (20, 20, 1))
            images.append(Image.fromarray(np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)))
            labels.append(k)
    return Pictures(images, labels, len(COLOURS), broken, name)


class Tiny(nn.Module):
    """A network with BatchNorm and dropout, which make training depend on more than the data."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(F.relu(self.bn(self.conv(x))).mean((2, 3))))
