"""Where one unit of work is done: a protocol on a method and some items, with maps and measurements shared by all of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

import torch
from torch import Tensor

from attrlib.engine.loading import part
from attrlib.engine.units import Unit
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, Attribution, Passes, attribute_each, create
from attrlib.models import Classifier, Layer
from attrlib.models.folded import Folded
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, Evaluation, Explain, Measurement, Prediction, Protocol, Scene, Setting
from attrlib.specs import NUMERICS, MethodSpec, digest
from attrlib.store import Record


class Shelf(Interface):
    """Where results are kept: the store, or a scratch in memory for work that is done elsewhere and sent back."""

    @property
    def dtype(self) -> str:
        """How maps are rounded: float32 or float16."""

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Those that are known."""

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Keeps them."""

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Those that are known, (1,h,w) each."""

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Keeps them."""

    def rounded(self, maps: Tensor) -> Tensor:
        """The maps as they come back."""


class Scratch:
    """A shelf in memory."""

    dtype = "float32"

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Record]] = {}
        self.specs: dict[str, Mapping[str, object]] = {}
        self.kept_maps: dict[str, Tensor] = {}

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Those that are known."""
        known = self.kept.get(key, {})
        return {item: known[item] for item in items if item in known}

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Keeps them."""
        self.specs[key] = spec
        self.kept.setdefault(key, {}).update(records)

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Those that are known, (1,h,w) each."""
        return {key: self.kept_maps[key] for key in keys if key in self.kept_maps}

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Keeps them."""
        self.kept_maps.update(maps)

    def rounded(self, maps: Tensor) -> Tensor:
        """The maps as they come back."""
        return maps


class Bench:
    """A model, a seed and a shelf. `rows` bounds what goes through the model at once; no result depends on it."""

    def __init__(
        self,
        model: Classifier,
        shelf: Shelf,
        seed: int = 0,
        fast: bool = False,
        rows: int = 16,
        progress: Progress = no_progress,
    ):
        self.model, self.shelf = model, shelf
        self.setting = Setting(model, seed, rows, fast, progress)
        self.model_digest = model.digest
        self._folded = Folded()
        self._about: dict[str, object] = {"model": model.name, "model_digest": self.model_digest, "numerics": NUMERICS}

    def describe(self, protocol: Protocol, method: MethodSpec) -> dict[str, object]:
        """All that a score depends on besides its item; its digest is the key under which it is kept."""
        seeded = protocol.seeded or create(method).seeded
        about = {"kind": "score", "protocol": protocol.key(), "fast": self.setting.fast, "maps": self.shelf.dtype}
        return self._about | about | self._method(method, protocol.views(self.model)[0], seeded)

    def perform(
        self, protocol: Protocol, method: MethodSpec, units: Sequence[Unit], batch: Batch, beside: Sequence[MethodSpec] = ()
    ) -> dict[str, Record]:
        """The scores of some units, whose batch this is, by the name of each unit's results. See `explain` for `beside`."""
        choice = protocol.target_choice
        targets = batch.labels if choice == "label" else self.measure(Prediction(), batch)["class"].long()
        measured = {m: self.measure(m, batch, targets) for m in protocol.measurements}
        outcomes = protocol.evaluate(Evaluation(self.setting, batch, targets, measured, self.explain(method, beside)))
        return {unit.key(choice): Record(outcome.value, outcome.details) for unit, outcome in zip(units, outcomes, strict=True)}

    def measure(self, measurement: Measurement, batch: Batch, targets: Tensor | None = None) -> dict[str, Tensor]:
        """What does not depend on the method, from the shelf where it is known: float64 by name."""
        keys = list(batch.ids)
        if measurement.targeted and targets is not None:
            keys = [f"{key}:{target}" for key, target in zip(keys, targets.tolist(), strict=True)]
        about, key = self.measurement_key(measurement)
        known = self.shelf.records(key, keys)
        missing = [row for row, item in enumerate(keys) if item not in known]
        if missing:
            chosen = torch.zeros(len(batch), dtype=torch.long) if targets is None else targets
            # Always exact: they are few, and every method's score depends on them.
            found = measurement.measure(dataclasses.replace(self.setting, fast=False), part(batch, missing), chosen[missing])
            lists = {name: values.double().tolist() for name, values in found.items()}
            new = {keys[row]: Record(details={name: values[i] for name, values in lists.items()}) for i, row in enumerate(missing)}
            self.shelf.add_records(key, about, new)
            known = known | new
        names = known[keys[0]].details
        return {name: torch.tensor([known[item].details[name] for item in keys], dtype=torch.float64) for name in names}

    def measured(self, measurement: Measurement, units: Sequence[Unit], choice: str) -> int:
        """Of how many units a measurement is known, for the label or the prediction."""
        key = self.measurement_key(measurement)[1]
        if not measurement.targeted:
            return len(self.shelf.records(key, [unit.id for unit in units]))
        targets = {unit.id: unit.labels[0] for unit in units}
        if choice == "prediction":
            predictions = self.shelf.records(self.measurement_key(Prediction())[1], list(targets))
            targets = {item: int(record.details["class"]) for item, record in predictions.items() if record.details}  # type: ignore[arg-type]
        return len(self.shelf.records(key, [f"{item}:{target}" for item, target in targets.items()]))

    def measurement_key(self, measurement: Measurement) -> tuple[dict[str, object], str]:
        """What a measurement depends on besides its item, and the digest of it."""
        fields = {"name": type(measurement).__name__} | dataclasses.asdict(measurement)
        about = self._about | {"kind": "measurement", "measurement": fields, "seed": self.setting.seed if measurement.seeded else None}
        return about, digest(about)

    def seconds(self, method: MethodSpec) -> tuple[dict[str, object], str]:
        """What the seconds of a map depend on besides its image, and the digest of it."""
        about = self._about | {"kind": "seconds", "device": self.model.device.type, "fast": self._is_fast(method, self.model)}
        about |= self._method(method, self.model, False)
        return about, digest(about)

    def _is_fast(self, method: MethodSpec, view: Classifier) -> bool:
        """Whether maps are other than exact ones: rounded, or those of a model that was folded."""
        return self._rounded(method) or self._quick(method, view) is not view

    def _quick(self, method: MethodSpec, view: Classifier) -> Classifier:
        """What a method explains in place of a model: in a fast run its folded twin."""
        return self._folded(view, view.layer(method.layer).path) if self.setting.fast else view

    def _rounded(self, method: MethodSpec) -> bool:
        return self.setting.fast and is_rounded(create(method).passes(self.model.layer(method.layer)))

    def _method(self, method: MethodSpec, view: Classifier, seeded: bool) -> dict[str, object]:
        # The path rather than the name: a wrapped model may call any layer Middle.
        layer = view.layer(method.layer, view.input_size).path
        code = METHODS[method.name].code
        own = {"code": code} if code else {}
        return own | {"method": method.name, "params": method.values, "layer": layer, "seed": self.setting.seed if seeded else None}

    def explain(self, method: MethodSpec, beside: Sequence[MethodSpec] = ()) -> Explain:
        """Maps of a method, from the shelf where they are known.

        Where they are not, those of the methods `beside` it, at the same layer, are made together with it and put on the shelf.
        """

        def explain(scene: Scene) -> tuple[Tensor, Layer]:
            size = (scene.images.shape[2], scene.images.shape[3])
            layer = scene.model.layer(method.layer, size)
            if scene.keys is None:
                (maps,) = self._compute([method], scene, list(range(scene.targets.numel())))
                return self.shelf.rounded(_of(maps))[:, 0].unflatten(0, scene.targets.shape), layer
            keys = self._map_keys(method, scene)
            known = self.shelf.maps(list(dict.fromkeys(keys)))
            missing = [k for k, key in enumerate(keys) if key not in known]
            if missing:
                others = {other: [own[k] for k in missing] for other in beside for own in [self._map_keys(other, scene)]}
                begun = self.shelf.maps([key for own in others.values() for key in own]) if others else {}
                others = {other: own for other, own in others.items() if not begun.keys() & set(own)}
                first, *more = self._compute([method, *others], scene, missing)
                known = known | self._keep(first, [keys[k] for k in missing])
                for own, found in zip(others.values(), more, strict=True):
                    # What another method raises is for its own turn.
                    if isinstance(found, Attribution):
                        self._keep(found, own)
            return torch.stack([known[key][0] for key in keys]).unflatten(0, scene.targets.shape), layer

        return explain

    def _map_keys(self, method: MethodSpec, scene: Scene) -> list[str]:
        """Under which names the maps of a scene are kept, row by row."""
        about = {"view": scene.view, "fast": self._is_fast(method, scene.model), "maps": self.shelf.dtype}
        prefix = digest(self._about | about | self._method(method, scene.model, create(method).seeded))
        assert scene.keys is not None
        return [digest(prefix, item, target) for item, row in zip(scene.keys, scene.targets.tolist(), strict=True) for target in row]

    def _keep(self, found: Attribution | AttrlibError, keys: Sequence[str]) -> dict[str, Tensor]:
        """Puts maps on the shelf; they as they come back."""
        new = dict(zip(keys, self.shelf.rounded(_of(found)), strict=True))
        self.shelf.add_maps(new)
        return new

    def _compute(self, methods: Sequence[MethodSpec], scene: Scene, which: list[int]) -> list[Attribution | AttrlibError]:
        """The maps (k,1,h,w) of some of the pairs of image and target, which count row by row, by each method."""
        setting, several = self.setting, scene.targets.shape[1]
        owners = [k // several for k in which]
        area = scene.images.shape[2] * scene.images.shape[3] / (self.model.input_size[0] * self.model.input_size[1])
        rows, targets = max(1, round(setting.rows / area)), scene.targets.flatten()[which].tolist()
        images, shared = (scene.images[owners], None) if several == 1 else (scene.images, owners)
        model, rounded = self._quick(methods[0], scene.model), self._rounded(methods[0])
        every = attribute_each(model, methods, images, targets, setting.seed, rows, setting.progress, rounded, shared)
        for method, found in zip(methods, every, strict=True):
            if isinstance(found, Attribution) and scene.keys is not None and not scene.view:
                about, key = self.seconds(method)
                self.shelf.add_records(key, about, {scene.keys[owner]: Record(found.seconds / len(which)) for owner in owners})
        return every


def is_rounded(passes: Passes) -> bool:
    """Whether a fast run makes maps of these passes in bfloat16: of many forward passes, which gain most, and no gradient.

    Gradients gain a fifth on a CPU, and IG's map loses its ranks: the mean SDS of 64 photos moved by 0.03.
    """
    return passes.forward > 1 and not passes.gradient


def _of(found: Attribution | AttrlibError) -> Tensor:
    """The maps (k,1,h,w), or raises what stands in their place."""
    if isinstance(found, AttrlibError):
        raise found
    return found.maps
