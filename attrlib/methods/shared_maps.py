"""Compute maps of the same images method by method, and only once what the methods have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attrlib.methods.attribution import DEFAULTS, Attribution, AttributionOptions, rows_at_once
from attrlib.methods.together import Items, MethodRequest, SharedBatch, Stopwatch
from attrlib.models import Classifier, Layer
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec
from attrlib.targets import Target


class SharedMaps:
    """Maps of one batch of images, computed method by method, at any time, in the order in which they are asked for.

    What methods have in common is computed once, and kept as long as this object. The maps are those of `attribute`, bit for bit. One
    thread may use it, one method at a time.

    Args:
        model: The classifier to explain.
        images: Normalised images (B,C,H,W), few enough for one pass.
        targets: Target class index of each image.
        options: Seed, batch size and precision. The progress callback is given to `attribute` instead.
    """

    def __init__(self, model: Classifier, images: Tensor, targets: Sequence[int], options: AttributionOptions = DEFAULTS):
        self._model, self._images, self._options = model, images, options
        self._items = Items(model.place(images.detach()), torch.tensor(list(targets), device=model.device))
        self._stopwatch = Stopwatch(options.on_progress, model.device)
        self._batches: dict[tuple[Classifier, Layer, Target], SharedBatch] = {}

    def attribute(self, spec: MethodSpec, on_progress: Progress = no_progress) -> Attribution:
        """Compute the maps of a method.

        Args:
            spec: The method, its layer and its parameters.
            on_progress: Progress callback. An exception that it raises passes through.

        Raises:
            AttrlibError: As in `attribute_all`.
        """
        request = MethodRequest.of(self._model, spec, self._images)
        self._stopwatch.on_progress = on_progress
        for target in set(self._items.targets.tolist()):
            request.explained.check_class(self._model, target)
        key = request.model, request.layer, request.explained
        if key not in self._batches:
            chunk = rows_at_once(self._model, (self._images.shape[2], self._images.shape[3]), self._options.batch_size)
            self._batches[key] = SharedBatch.at(*key, self._items, chunk, self._options.seed, self._stopwatch)
        with request.model.session(self._options.fast):
            self._batches[key].attribute(request)
        return Attribution.of(request, self._options.seed, self._images)
