"""What a model reads off a photo, as pages name and write it: its most probable classes or labels, or its numbers."""

from dataclasses import dataclass

from torch import Tensor

from attrlib.models import Classifier
from attrlib.models.outputs import PREDICTED

COUNT = 5


@dataclass(frozen=True)
class Reading:
    """A class or label with its probability, or a number.

    Attributes:
        name: Short name of the class, or of the number.
        value: The probability, or the number.
        is_probability: Whether `value` is a probability.
        predicted: Whether this is a label that counts as predicted, of a model in which several can be present.
    """

    name: str
    value: float
    is_probability: bool = True
    predicted: bool = False

    @property
    def text(self) -> str:
        """Return the value as text; labels that count as predicted are marked."""
        return f"{self.value:.2f}{' ✓' if self.predicted else ''}" if self.is_probability else f"{self.value:.3g}"


def reading(model: Classifier, values: Tensor, index: int) -> Reading:
    """Return one of the readings (C,) of a model."""
    value, outputs = float(values[index]), model.outputs
    return Reading(
        model.class_names[index].split(",")[0],
        value,
        outputs.has_classes,
        not outputs.exclusive and outputs.has_classes and value >= PREDICTED,
    )


def readings(model: Classifier, values: Tensor) -> dict[int, Reading]:
    """Return the readings (C,) to show, by index: the most probable classes or labels, best first, or the first numbers."""
    count = min(COUNT, len(values))
    indices = values.topk(count).indices.tolist() if model.outputs.has_classes else range(count)
    return {index: reading(model, values, index) for index in indices}
