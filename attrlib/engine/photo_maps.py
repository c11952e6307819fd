"""Maps of one photo, computed with shared passes, and shared with scores and aggregate views through the cache."""

from collections.abc import Callable
from functools import cached_property

import torch

from attrlib.data.images import Photo
from attrlib.engine.cache import ResultCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.memory import rows_within
from attrlib.methods import Attribution, AttributionOptions, SharedMaps
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import ExplanationRequest
from attrlib.specs import MethodSpec


class PhotoMaps:
    """Maps of one photo and class, computed method by method in any order.

    Maps are read from the cache and added to it, unless the photo has no `id`. Passes that methods share are computed once and kept as
    long as this object. Not thread-safe.

    Args:
        model: The classifier.
        photo: The photo.
        target: Class index to explain.
        seed: Seed of everything random.
        open_cache: Returns the cache in which maps are looked up and added; called by the first map.
    """

    def __init__(self, model: Classifier, photo: Photo, target: int, seed: int, open_cache: Callable[[], ResultCache]):
        self._model, self._photo, self._target, self._seed, self._open_cache = model, photo, target, seed, open_cache

    def attribute(self, method: MethodSpec, on_progress: Progress = no_progress) -> Attribution:
        """Return the map of a method.

        Args:
            method: The method, resolved.
            on_progress: Progress callback. An exception that it raises passes through.

        Raises:
            AttrlibError: If the method is not defined for the model.
        """
        if not self._photo.id:
            return self._shared.attribute(method, on_progress)
        cached = self._evaluator.cached_attribution(method, self._request)
        return cached or self._evaluator.add_attribution(self._shared.attribute(method, on_progress), self._request)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self._model, self._open_cache(), self._seed)

    @cached_property
    def _request(self) -> ExplanationRequest:
        images = self._model.preprocess(self._photo)[None]
        return ExplanationRequest(self._model, images, torch.tensor([[self._target]]), keys=(self._photo.id,))

    @cached_property
    def _shared(self) -> SharedMaps:
        return SharedMaps(self._model, self._request.images, [self._target], AttributionOptions(self._seed, rows_within(self._model)))
