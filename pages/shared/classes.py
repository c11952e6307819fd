"""The classes that a model finds most probable, as pages name them."""

from torch import Tensor

from attrlib.models import Classifier

COUNT = 5


def most_probable(model: Classifier, probabilities: Tensor) -> dict[int, tuple[str, float]]:
    """Return short name and probability of the five most probable classes by index, best first, from probabilities (C,)."""
    values, indices = probabilities.topk(min(COUNT, len(probabilities)))
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return {index: (model.class_names[index].split(",")[0], value) for index, value in pairs}
