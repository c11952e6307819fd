"""Test whether a method is defined for a model, by running it on a noise image."""

from weakref import WeakKeyDictionary

import torch

from attrlib.errors import MethodError, no_gradients, overwritten
from attrlib.methods.base import Method
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer

_tried: WeakKeyDictionary[Classifier, dict[object, str]] = WeakKeyDictionary()


def check_by_trial(method: Method, model: Classifier, layer: Layer) -> None:
    """Run a method on a noise image, to check that it is defined for a model. The result is cached per model, layer and method.

    Args:
        method: The method.
        model: The classifier.
        layer: The layer whose output is explained.

    Raises:
        MethodError: If the method is not defined for the model; the message is that of the method.
    """
    cached, key = _tried.setdefault(model, {}), (method, layer)
    if key not in cached:
        with model.session():
            image = model.place(torch.randn(1, *model.input_shape, generator=torch.Generator().manual_seed(0)))
            cached[key] = ""
            try:
                at = model.layer(layer.name)
                method.attribute(AttributionContext(model, at, image, torch.zeros(1, dtype=torch.long, device=image.device)))
            except MethodError as error:
                cached[key] = str(error)
            except BaseException as error:
                if not overwritten(error):
                    del cached[key]
                    raise
                cached[key] = str(no_gradients(method.name))
    if cached[key]:
        raise MethodError(cached[key])
