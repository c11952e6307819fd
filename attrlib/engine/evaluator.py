"""Compute scores, measurements and maps of a model, reading and filling a cache."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attrlib.data.datasets import Dataset
from attrlib.engine.cache import ResultCache
from attrlib.engine.items import EvalItem
from attrlib.engine.keys import Key, ResultKeys, map_key
from attrlib.engine.loader import Loader, take
from attrlib.engine.sources import CachedOutcomes
from attrlib.errors import AttrlibError
from attrlib.methods import BATCH_SIZE, Attribution, AttributionOptions, Passes, attribute_each, instance
from attrlib.models import Classifier, Layer
from attrlib.models.folded import Folded
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, Measurement, Prediction, Protocol
from attrlib.specs import MethodSpec
from attrlib.store import Record


class Evaluator:
    """Evaluate attribution methods of one model by any protocol, reading and filling a cache.

    Args:
        model: The classifier.
        cache: Where results are looked up and stored; see `ResultCache`.
        seed: Seed of everything random.
        fast: Fold BatchNorm and compute many forward passes in bfloat16.
        rows: Maximum number of images in one pass through the model; results do not depend on it.
        on_progress: Called with (done, total) passes; raises `Cancelled` to stop.
    """

    def __init__(
        self,
        model: Classifier,
        cache: ResultCache,
        seed: int = 0,
        fast: bool = False,
        rows: int = BATCH_SIZE,
        on_progress: Progress = no_progress,
    ):
        self.model, self.cache = model, cache
        self.context = EvalContext(model, seed, rows, fast, on_progress)
        self._folded = Folded()
        self.model_digest = model.digest

    @property
    def keys(self) -> ResultKeys:
        """Return the keys of the results."""
        return ResultKeys(self.model, self.model_digest, self.context.seed, self.cache.dtype, self.context.fast)

    def with_rows(self, rows: int) -> "Evaluator":
        """Return the same evaluator with another maximum number of images in one pass."""
        return self._with(rows=rows)

    def reporting_to(self, on_progress: Progress) -> "Evaluator":
        """Return the same evaluator with another progress callback."""
        return self._with(on_progress=on_progress)

    def exact(self) -> "Evaluator":
        """Return the same evaluator without the approximations of `fast`."""
        return self._with(fast=False)

    def using(self, cache: ResultCache) -> "Evaluator":
        """Return the same evaluator with another cache."""
        other = self._with()
        other.cache = cache
        return other

    def _with(self, **changes: object) -> "Evaluator":
        other = object.__new__(Evaluator)
        other.__dict__ |= self.__dict__ | {"context": dataclasses.replace(self.context, **changes)}  # type: ignore[arg-type]
        return other

    def loader(self, data: Dataset, protocols: Iterable[Protocol] = ()) -> Loader:
        """Return a loader for a data set that loads what these protocols need."""
        return Loader(self.model, data, {need for protocol in protocols for need in protocol.needs})

    # Scores

    def evaluate(
        self, protocol: Protocol, items: Sequence[EvalItem], batch: Batch, explain: Explain, method: MethodSpec | None = None
    ) -> dict[str, Record]:
        """Score the maps of `explain` on some items.

        Args:
            protocol: The protocol.
            items: The items.
            batch: Their images, row by row.
            explain: The maps to score; see `explainer`.
            method: The method whose maps they are, resolved: the outcomes of the protocol's sources are then cached. None if they are
                changed maps.

        Returns:
            The record of each item by `EvalItem.key`. They are not added to the cache.
        """
        inputs = self.eval_batch(protocol, batch, explain)
        if method is not None:
            inputs = dataclasses.replace(inputs, outcomes_of=CachedOutcomes(self.cache, self.keys, method, items))
        outcomes = protocol.evaluate(inputs)
        choice = protocol.target_choice
        return {item.key(choice): Record(outcome.value, outcome.details) for item, outcome in zip(items, outcomes, strict=True)}

    def eval_batch(self, protocol: Protocol, batch: Batch, explain: Explain) -> EvalBatch:
        """Return the input of a protocol: images, targets, measurements and maps.

        Args:
            protocol: The protocol.
            batch: The items.
            explain: The maps to score; see `explainer`.
        """
        labelled = protocol.target_choice == "label"
        targets = batch.labels if labelled else self.measure(Prediction(), batch)["class"].long()
        measured = {m: self.measure(m, batch, targets) for m in protocol.measurements}
        return EvalBatch(self.context, batch, targets, measured, explain)

    # Measurements

    def measure(self, measurement: Measurement, batch: Batch, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Return the values of a measurement, from the cache or computed and cached.

        Args:
            measurement: What to measure; it does not depend on the method.
            batch: The items.
            targets: Target class of each item, (B,); not needed by measurements that do not depend on it.

        Returns:
            Values by name, float64, (B,...).
        """
        keys = list(batch.ids)
        if measurement.targeted and targets is not None:
            keys = [f"{key}:{target}" for key, target in zip(keys, targets.tolist(), strict=True)]
        key_fields, key = self.keys.measurement(measurement)
        cached = self.cache.records(key, keys)
        missing = [row for row, item in enumerate(keys) if item not in cached]
        if missing:
            chosen = torch.zeros(len(batch), dtype=torch.long) if targets is None else targets
            # Always exact: measurements are few, and the scores of all methods depend on them.
            computed = measurement.measure(dataclasses.replace(self.context, fast=False), take(batch, missing), chosen[missing])
            lists = {name: values.double().tolist() for name, values in computed.items()}
            new = {keys[row]: Record(details={name: values[i] for name, values in lists.items()}) for i, row in enumerate(missing)}
            self.cache.add_records(key, key_fields, new)
            cached = cached | new
        names = cached[keys[0]].details
        return {name: torch.tensor([cached[item].details[name] for item in keys], dtype=torch.float64) for name in names}

    def count_measured(self, measurement: Measurement, items: Sequence[EvalItem], target_choice: str) -> int:
        """Return the number of items for which a measurement is cached.

        Args:
            measurement: The measurement.
            items: The items.
            target_choice: Which class is the target: `label` or `prediction`.
        """
        key = self.keys.measurement(measurement)[1]
        if not measurement.targeted:
            return len(self.cache.values(key, [item.id for item in items]))
        targets = [(item.id, item.labels[0]) for item in items]
        if target_choice == "prediction":
            predictions = self.cache.records(self.keys.measurement(Prediction())[1], [item.id for item in items])
            targets = [(item, int(record.details["class"])) for item, record in predictions.items() if record.details]  # type: ignore[arg-type]
        return len(self.cache.values(key, [f"{item}:{target}" for item, target in targets]))

    # Maps

    def explainer(self, method: MethodSpec, together: Sequence[MethodSpec] = ()) -> Explain:
        """Return a function from a request to maps (B,T,h,w) of a method and their layer, from the cache or computed and cached.

        Args:
            method: The method, resolved.
            together: Methods at the same layer whose maps will be requested next; they are computed in the same passes and cached.
        """

        def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
            layer = request.model.layer(method.layer, (request.images.shape[2], request.images.shape[3]))
            if request.keys is None:
                (maps,) = self._compute([method], request, list(range(request.targets.numel())))
                return self.cache.rounded(_result_or_raise(maps).maps)[:, 0].unflatten(0, request.targets.shape), layer
            keys = self._map_keys(method, request)
            cached = self.cache.maps(list(dict.fromkeys(keys)))
            # A class may be asked for twice, as the label and the prediction of an image.
            missing = sorted({key: k for k, key in reversed(list(enumerate(keys))) if key not in cached}.values())
            if missing:
                cached = cached | self._compute_together(method, together, request, missing)
            return _stacked(cached, keys, request), layer

        return explain

    def cached_maps(self, method: MethodSpec, request: ExplanationRequest) -> Tensor | None:
        """Return the maps (B,T,h,w) of a request, None unless all are cached. The images of the request are not read.

        Args:
            method: The method, resolved.
            request: What to explain; it must have keys.
        """
        keys = self._map_keys(method, request)
        cached = self.cache.maps(list(dict.fromkeys(keys)))
        return None if set(keys) - cached.keys() else _stacked(cached, keys, request)

    def cached_attribution(self, method: MethodSpec, request: ExplanationRequest) -> Attribution | None:
        """Return the map of a single image and target with its seconds and diagnostics, None unless it is cached.

        Args:
            method: The method, resolved.
            request: What to explain, (1,C,H,W) and (1,1); it must have keys.
        """
        (key,) = self._map_keys(method, request)
        cached = self.cache.maps([key])
        if not cached:
            return None
        (item,) = request.keys or ()
        seconds = self.cache.values(self._seconds_key(method)[1], [item]).get(item, math.nan)
        details = self.cache.records(self.keys.diagnostics()[1], [key]).get(key, Record()).details
        diagnostics = {name: (float(value),) for name, value in details.items()}  # type: ignore[arg-type]
        size = (request.images.shape[2], request.images.shape[3])
        return Attribution(
            cached[key][None], (int(request.targets),), method, self.context.seed, seconds, size, diagnostics, self.model.remarks
        )

    def add_attribution(self, result: Attribution, request: ExplanationRequest) -> Attribution:
        """Add a map to the cache, and return it at the cache's precision.

        Args:
            result: The map.
            request: What it explains, (1,C,H,W) and (1,1); it must have keys.
        """
        self._add_seconds(result, request.keys or ())
        maps = self._add_maps(result, self._map_keys(result.spec, request))
        return dataclasses.replace(result, maps=torch.stack(list(maps.values())))

    def mean_seconds(self, method: MethodSpec, ids: Sequence[str]) -> float:
        """Return the mean of the cached seconds of a map, NaN if none is cached.

        Args:
            method: The method, resolved.
            ids: Content digests of the images.
        """
        seconds = self.cache.values(self._seconds_key(method)[1], ids).values()
        return float(np.mean(list(seconds))) if seconds else math.nan

    def _seconds_key(self, method: MethodSpec) -> Key:
        return self.keys.seconds(method, self._is_approximate(method, self.model))

    def _compute_together(
        self, method: MethodSpec, together: Sequence[MethodSpec], request: ExplanationRequest, missing: list[int]
    ) -> dict[str, Tensor]:
        """Compute the missing maps of a method, and in the same passes those of other methods that have no cached map yet."""
        keys = {each: [all_keys[k] for k in missing] for each in (method, *together) for all_keys in [self._map_keys(each, request)]}
        begun = self.cache.maps([key for each in together for key in keys[each]]) if together else {}
        chosen = [each for each in keys if each == method or not begun.keys() & set(keys[each])]
        first, *others = self._compute(chosen, request, missing)
        cached = self._add_maps(first, keys[method])
        for each, maps in zip(chosen[1:], others, strict=True):
            # An error of another method is raised when that method is evaluated.
            if isinstance(maps, Attribution):
                self._add_maps(maps, keys[each])
        return cached

    def _compute(self, methods: Sequence[MethodSpec], request: ExplanationRequest, which: list[int]) -> list[Attribution | AttrlibError]:
        """Compute maps (k,1,h,w) by each method for some pairs of image and target, numbered row by row."""
        context, target_count = self.context, request.targets.shape[1]
        owners = [k // target_count for k in which]
        area = request.images.shape[2] * request.images.shape[3] / (self.model.input_size[0] * self.model.input_size[1])
        rows, targets = max(1, round(context.rows / area)), request.targets.flatten()[which].tolist()
        images, shared = (request.images[owners], None) if target_count == 1 else (request.images, owners)
        model, reduced = self._explained(methods[0], request.model), self._reduced(methods[0])
        options = AttributionOptions(context.seed, rows, reduced, context.on_progress)
        results = attribute_each(model, methods, images, targets, options, shared)
        for result in results:
            if isinstance(result, Attribution) and request.keys is not None and not request.view:
                self._add_seconds(result, [request.keys[owner] for owner in owners])
        return results

    def _add_seconds(self, result: Attribution, ids: Sequence[str]) -> None:
        key_fields, key = self._seconds_key(result.spec)
        self.cache.add_records(key, key_fields, {item: Record(result.seconds / len(ids)) for item in ids})

    def _add_maps(self, result: Attribution | AttrlibError, keys: Sequence[str]) -> dict[str, Tensor]:
        """Add maps and their diagnostics to the cache, and return the maps at the cache's precision."""
        result = _result_or_raise(result)
        maps = dict(zip(keys, self.cache.rounded(result.maps), strict=True))
        self.cache.add_maps(maps)
        if result.diagnostics:
            key_fields, key = self.keys.diagnostics()
            rows = zip(*result.diagnostics.values(), strict=True)
            self.cache.add_records(
                key,
                key_fields,
                {name: Record(details=dict(zip(result.diagnostics, row, strict=True))) for name, row in zip(keys, rows, strict=True)},
            )
        return maps

    def _map_keys(self, method: MethodSpec, request: ExplanationRequest) -> list[str]:
        """Return the keys of the maps of a request, row by row."""
        assert request.keys is not None
        prefix = self.keys.maps(method, request.model, request.view, self._is_approximate(method, request.model))
        return [map_key(prefix, item, target) for item, row in zip(request.keys, request.targets.tolist(), strict=True) for target in row]

    def _is_approximate(self, method: MethodSpec, view: Classifier) -> bool:
        return self._reduced(method) or self._explained(method, view) is not view

    def _explained(self, method: MethodSpec, view: Classifier) -> Classifier:
        """Return the model to explain: in a fast run, the one with BatchNorm folded."""
        return self._folded(view, view.layer(method.layer).path) if self.context.fast else view

    def _reduced(self, method: MethodSpec) -> bool:
        """Return whether the maps are computed in bfloat16."""
        return self.context.fast and uses_bfloat16(instance(method).passes(self.model.layer(method.layer)))


def _stacked(maps: Mapping[str, Tensor], keys: Sequence[str], request: ExplanationRequest) -> Tensor:
    """Return the maps (B,T,h,w) of a request from maps (1,h,w) by key."""
    return torch.stack([maps[key][0] for key in keys]).unflatten(0, request.targets.shape)


def uses_bfloat16(passes: Passes) -> bool:
    """Return whether a fast run computes maps with these passes in bfloat16: only several forward passes without a gradient.

    Forward passes gain most. Gradients gain only a fifth on a CPU, and the ranks in IG's maps change: the mean SDS of 64 photos
    moved by 0.03.
    """
    return passes.forward > 1 and not passes.gradient


def _result_or_raise(result: Attribution | AttrlibError) -> Attribution:
    if isinstance(result, AttrlibError):
        raise result
    return result
