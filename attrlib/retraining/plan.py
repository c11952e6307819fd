"""Plan a retraining: the images, the methods that are defined, the trainings, and those whose result is in the store."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch

from attrlib.data.datasets import Dataset
from attrlib.data.labels import match_classes, match_notes
from attrlib.deletion import SEEDED_BASELINES
from attrlib.engine.cache import RunStore
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.memory import free_bytes, probe, rows_within
from attrlib.engine.plan import Estimate
from attrlib.engine.streaming import StreamingStore, streaming_note
from attrlib.errors import AttrlibError, MethodError, ProtocolError, SpecError
from attrlib.methods import check_defined, instance, resolve
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.retraining.result import RANDOM
from attrlib.retraining.split import split_items
from attrlib.specs import NUMERICS, MethodSpec, RoarSpec, digest
from attrlib.specs.maps import are_maps
from attrlib.store import Record
from attrlib.targets import TARGETS
from attrlib.targets import create as create_target
from attrlib.training.fit import fit, untrained
from attrlib.training.recipe import PRESETS, Recipe

SHARE_OF_MEMORY = 0.5
"""Largest share of the free memory for the images and the ranks of their pixels."""
_STEPS = 3
"""Steps of a training that are timed for an estimate."""


@dataclass(frozen=True)
class Retraining:
    """One training, which is kept in the store as a whole.

    Attributes:
        method: The method whose maps rank the pixels, resolved; None if no pixel is replaced.
        keep: Whether the least relevant pixels are replaced, rather than the most relevant ones.
        share: Share of the pixels that are replaced.
        seed: Seed of the weights and of the order of the images.
    """

    method: MethodSpec | None
    keep: bool
    share: float
    seed: int

    @property
    def item(self) -> str:
        """Return the name of the training among those with the same key."""
        return f"{self.share!r}:{self.seed}"


@dataclass(frozen=True, eq=False)
class RoarPlan:
    """The plan of a retraining; see `plan_roar`.

    Attributes:
        spec: The retraining.
        data: The data set.
        store: Where maps and results are looked up and stored.
        evaluator: Computes maps of the model to explain.
        train: The images to train on; their labels are classes of the data.
        test: The images to test on.
        methods: The methods as asked for by resolved method, `Random` among them.
        targets: The model's class to explain for each class of the data; empty to explain the prediction.
        refused: The methods that are not defined, with the reason.
        notes: What was left out, and why.
        max_memory: Maximum memory in bytes for computing maps, weights included; None for half of the free memory.
        cached: The results in the store when the plan was made.
    """

    spec: RoarSpec
    data: Dataset
    store: RunStore
    evaluator: Evaluator
    train: tuple[EvalItem, ...]
    test: tuple[EvalItem, ...]
    methods: Mapping[MethodSpec, MethodSpec]
    targets: tuple[int, ...]
    refused: tuple[tuple[MethodSpec, str], ...]
    notes: tuple[str, ...]
    max_memory: int | None
    cached: Mapping[Retraining, Record]

    @property
    def model(self) -> Classifier:
        """Return the model to explain."""
        return self.evaluator.model

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the images to train on."""
        return size_of(self.spec, self.model)

    @property
    def recipe(self) -> Recipe:
        """Return the settings of all trainings but their seed."""
        return recipe_of(self.spec)

    @cached_property
    def trainings(self) -> tuple[Retraining, ...]:
        """Return all trainings, seed by seed, so that after the first seed every curve has all of its points."""
        orders = (False, True) if self.spec.keep else (False,)
        each = [(method, keep, share) for share in self.spec.shares for method in self.methods for keep in orders]
        return tuple(Retraining(*one, seed) for seed in range(self.spec.seeds) for one in ((None, False, 0.0), *each))

    @property
    def missing(self) -> tuple[Retraining, ...]:
        """Return the trainings whose result was not in the store."""
        return tuple(each for each in self.trainings if each not in self.cached)

    def key(self, method: MethodSpec | None, keep: bool) -> tuple[dict[str, object], str]:
        """Return what the results of the trainings of a method depend on besides share and seed, and its digest.

        Args:
            method: The method, resolved; None if no pixel is replaced.
            keep: Whether the least relevant pixels are replaced.
        """
        images = [digest([[item.id, *item.labels] for item in items]) for items in (self.train, self.test)]
        recipe = {name: value for name, value in asdict(self.recipe).items() if name != "seed"}
        fields: dict[str, object] = {"kind": "retraining", "numerics": NUMERICS, "images": images, "recipe": recipe, "net": self.spec.net}
        fields |= {"size": list(self.size), "classes": len(self.data.class_names), "preprocessing": digest(self.model.preprocessing)}
        if method is not None:
            seed = self.spec.seed if self.spec.baseline in SEEDED_BASELINES else None
            fields |= {"maps": self.evaluator.keys.maps(method, self.model), "keep": keep, "sign": self.spec.sign, "seed": seed}
            fields |= {"baseline": self.spec.baseline, "targets": list(self.targets) or "prediction"}
        return fields, digest(fields)

    def looked_up(self, trainings: Sequence[Retraining]) -> dict[Retraining, Record]:
        """Return the results of trainings that are in the store now."""
        groups: dict[tuple[MethodSpec | None, bool], list[Retraining]] = {}
        for each in trainings:
            groups.setdefault((each.method, each.keep), []).append(each)
        found: dict[Retraining, Record] = {}
        for (method, keep), own in groups.items():
            records = self.store.records(self.key(method, keep)[1], [each.item for each in own])
            found |= {each: records[each.item] for each in own if each.item in records}
        return found

    def estimate(self, workers: int | None = None) -> Estimate:
        """Return the time of the missing trainings and, at most, of their maps, from a few timed steps and passes; and the memory.

        Args:
            workers: Number of processes that train.
        """
        missing = self.missing
        count = len(self.train) + len(self.test)
        model, costs = self.model, probe(self.model, rows_within(self.model, self.max_memory))
        seconds = _seconds_of_step(self) * self.recipe.epochs * max(1, len(self.train) // self.spec.batch) * len(missing)
        seconds /= min(workers or 1, os.cpu_count() or 1)
        for method in {each.method for each in missing if each.method is not None}:
            passes = instance(method).passes(model.layer(method.layer))
            seconds += count * ((passes.before + passes.forward) * costs.forward + passes.gradient * costs.gradient)
        return Estimate(seconds, model.nbytes + _bytes_of_images(count, len(self.methods), model.channels, self.size))


def plan_roar(
    spec: RoarSpec,
    model: Classifier,
    data: Dataset,
    store: RunStore,
    *,
    max_memory: int | None = None,
    on_progress: Progress = no_progress,
) -> RoarPlan:
    """Check a retraining, select its images, and look up the trainings whose result is in the store; nothing is trained.

    Args:
        spec: The retraining.
        model: The model to explain.
        data: The data set.
        store: Where maps and results are looked up and stored.
        max_memory: Maximum memory in bytes for computing maps, weights included; None for half of the free memory.
        on_progress: Called with the number of images found and wanted; raises `Cancelled` to stop.

    Raises:
        DataError: If the data have no labels, one class, several labels for an image, or too few images.
        ModelError: If the network to train cannot be built for the images.
        SpecError: If a share is too small for the images, or they do not fit into memory.
        MethodError: If no method is defined.
        ProtocolError: If no target of the methods is about the class.
    """
    split = split_items(spec, data, on_progress)
    methods, refused = _defined(spec, model)
    targets = match_classes(data.class_names, model.class_names, spec.classes) if spec.target == "label" else ()
    matched = match_notes(data.class_names, model.class_names, spec.classes) if targets else ()
    height, width = size = size_of(spec, model)
    for share in spec.shares:
        if not 0 < round(share * height * width) < height * width:
            raise SpecError(
                f"share {share:g} of {height} x {width} pixels is {'none' if share < 0.5 else 'all'} of them; give another share or a larger size"
            )
    _check_memory(len(split.train) + len(split.test), len(methods), model.channels, size)
    untrained(spec.net, len(data.class_names), size, model.channels, 0, str(model.device))
    plan = RoarPlan(
        spec, data, store, Evaluator(model, store, spec.seed), split.train, split.test, methods, targets, tuple(refused),
        tuple(dict.fromkeys([*model.remarks, *data.notes, *split.notes, *matched])), max_memory, {},
    )  # fmt: skip
    plan = replace(plan, cached=plan.looked_up(plan.trainings))
    nbytes = _bytes_of_maps(plan, store.dtype)
    if store.map_limit is None or nbytes <= store.map_limit:
        return plan
    streaming = StreamingStore(store)
    note = streaming_note(nbytes, store.map_limit)
    return replace(plan, store=streaming, evaluator=plan.evaluator.using(streaming), notes=(*plan.notes, note))


def size_of(spec: RoarSpec, model: Classifier) -> tuple[int, int]:
    """Return height and width of the images to train on."""
    height, width = model.input_size
    factor = min(1.0, spec.size / min(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def recipe_of(spec: RoarSpec) -> Recipe:
    """Return the settings of the trainings of a spec but their seed: those of small models trained from random weights."""
    return replace(PRESETS["scratch"], epochs=spec.epochs, batch=spec.batch, lr=spec.lr, flip=spec.flip, scale=1.0, amp=False)


def _defined(spec: RoarSpec, model: Classifier) -> tuple[dict[MethodSpec, MethodSpec], list[tuple[MethodSpec, str]]]:
    """Return the methods that are defined, as asked for by resolved method, and the others with the reason. `Random` comes last if added."""
    methods: dict[MethodSpec, MethodSpec] = {}
    refused: list[tuple[MethodSpec, str]] = []
    last: AttrlibError | None = None
    for asked in dict.fromkeys(spec.methods):
        method = resolve(asked)
        try:
            _check(method, model)
        except AttrlibError as error:
            refused.append((asked, str(error)))
            last = error
            continue
        methods.setdefault(method, asked)
    if last is not None and not methods:
        raise last
    methods.setdefault(resolve(RANDOM), RANDOM)
    return methods, refused


def _check(method: MethodSpec, model: Classifier) -> None:
    if are_maps(method):
        raise MethodError("roar needs maps of all images that it draws to train on; give methods")
    target = create_target(method.target)
    if not target.about_class:
        raise ProtocolError(
            f"roar judges maps by what they tell of an image's class, but {method} explains something else; choose one of the targets "
            f"{', '.join(name for name, cls in TARGETS.items() if cls.about_class)}"
        )
    layer = model.layer(method.layer, model.input_size)
    check_defined(instance(method), model, layer, target)


def _bytes_of_images(count: int, methods: int, channels: int, size: tuple[int, int]) -> int:
    """Return the bytes of the images, of a copy with replaced pixels, and of the ranks of their pixels under each method."""
    return count * size[0] * size[1] * (2 * 4 * channels + 4 * methods)


def _check_memory(count: int, methods: int, channels: int, size: tuple[int, int]) -> None:
    needed, allowed = _bytes_of_images(count, methods, channels, size), int(SHARE_OF_MEMORY * free_bytes(torch.device("cpu")))
    if needed > allowed:
        raise SpecError(
            f"{count} images of {size[0]} x {size[1]} px with their ranks under {methods} methods take {needed >> 20} MB, more than the "
            f"{allowed >> 20} MB allowed; lower limit or size, or give fewer methods"
        )


def _bytes_of_maps(plan: RoarPlan, dtype: str) -> int:
    """Return the bytes of the maps that missing trainings need."""
    layers = [plan.model.layer(method.layer).shape for method in {each.method for each in plan.missing} if method is not None]
    pixels = sum(height * width for _channels, height, width in layers)
    return (len(plan.train) + len(plan.test)) * pixels * (2 if dtype == "float16" else 4)


def _seconds_of_step(plan: RoarPlan) -> float:
    net = untrained(plan.spec.net, len(plan.data.class_names), plan.size, plan.model.channels, 0, str(plan.model.device))
    recipe, rows = replace(plan.recipe, epochs=1), min(plan.spec.batch, len(plan.train))
    images = torch.randn(rows * _STEPS, plan.model.channels, *plan.size, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(len(images), dtype=torch.long)
    fit(net, images[:rows], labels[:rows], recipe)
    start = time.perf_counter()
    fit(net, images, labels, recipe)
    return (time.perf_counter() - start) / _STEPS
