"""Examine one model: which methods are valid at which layers, what they cost, and whether they change the model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.engine.peak import peak_memory
from attrlib.errors import AttrlibError, Cancelled, OutOfMemory, SpecError
from attrlib.methods import BATCH_SIZE, METHODS, AttributionOptions, Passes, attribute, check_defined, create, resolve
from attrlib.methods.differentiable import barriers
from attrlib.models import NAMED, Classifier
from attrlib.models.modules.probes import particulars
from attrlib.models.modules.state import State
from attrlib.progress import NewsProgress, no_progress
from attrlib.registry import params_of
from attrlib.specs import MethodSpec

VALID, REFUSED, FAILED = "valid", "refused", "failed"
QUICK = 0.3
"""Probes faster than this many seconds are run again to measure their time alone."""
UNSTABLE = 0.1
"""Change of a map, as a share of its norm, by a millionth of the image: of a proper map, less than 0.01; of rounding errors, about 1."""
ROUNDING = "Rounding errors: the map is another one if the image changes by a millionth. Choose another layer, or channels=abs-sum if the method has it."


@dataclass(frozen=True)
class Finding:
    """Result of probing one method at one layer.

    Attributes:
        method: Name of the method.
        layer: Name of the layer.
        state: `valid`, `refused` (not defined there) or `failed`.
        reason: Why it is not valid.
        note: What is unusual about the map, such as all zero.
        seconds: Seconds for one image at the method's default parameters; None if not valid.
        peak_bytes: Peak memory for one image besides the weights; None if not valid.
        seconds_all: Expected seconds for all images; None if not valid.
        peak_bytes_all: Expected peak memory for all images; None if not valid.
        changed: What the method left changed in the model or in the process. The doctor restored it.
    """

    method: str
    layer: str
    state: str
    reason: str = ""
    note: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None
    seconds_all: float | None = None
    peak_bytes_all: int | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Result of `doctor` on one model.

    Attributes:
        model: Name of the model.
        device: Device that it was probed on.
        weight_bytes: Size of the model's weights and buffers in bytes.
        images: Number of images that `seconds_all` and `peak_bytes_all` are estimated for.
        layers: Output shape (channels, height, width) of each layer.
        findings: One for each method at each layer.
        left_out: Files with custom methods that could not be loaded, each with the reason.
        model_findings: What was assumed when the model was loaded, and what the probes found out about it.
    """

    model: str
    device: str
    weight_bytes: int
    images: int
    layers: dict[str, tuple[int, int, int]]
    findings: tuple[Finding, ...]
    left_out: dict[str, str]
    model_findings: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Return whether no method left anything changed."""
        return not any(f.changed for f in self.findings)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the names of the methods, in order."""
        return tuple(dict.fromkeys(f.method for f in self.findings))

    def finding(self, method: str, layer: str) -> Finding:
        """Return the finding of a method at a layer."""
        return next(f for f in self.findings if (f.method, f.layer) == (method, layer))

    def reasons(self, method: str) -> list[str]:
        """Return why a method is not valid and what is unusual about its maps, each reason once, with the layers."""
        layers_by_reason: dict[str, list[str]] = {}
        for f in self.findings:
            if f.method == method and (f.reason or f.note or f.changed):
                text = f"left changed: {', '.join(f.changed)}" if f.changed else f.reason or f.note
                layers_by_reason.setdefault(text, []).append(f.layer)
        return [f"{', '.join(layers)}: {text}" for text, layers in layers_by_reason.items()]

    def json(self) -> dict[str, Any]:
        """Return the diagnosis as JSON values."""
        return asdict(self) | {"clean": self.clean}


def doctor(
    model: Classifier,
    methods: Sequence[str] | None = None,
    *,
    layers: Sequence[str] = NAMED,
    images: int = 100,
    limit: float = 3.0,
    on_progress: NewsProgress = no_progress,
) -> Diagnosis:
    """Probe methods on a synthetic image, and estimate their cost on real ones.

    Methods that take many passes run with at most 16 of them, and their time at default parameters is extrapolated from the number of
    passes. Everything that a method leaves changed is reported and restored.

    Args:
        model: The model to probe.
        methods: Names of methods; None for all.
        layers: Layers to probe at.
        images: Number of images to estimate the cost of.
        limit: Seconds after which a probe is stopped.
        on_progress: Progress callback; gets the number of finished probes, the total, and the next probe. Raises `Cancelled` to stop.

    Raises:
        SpecError: If there is nothing to probe, or `images` or `limit` is not positive.
        MethodError: If a method does not exist.
    """
    if images < 1 or not limit > 0:
        raise SpecError(f"images={images} and limit={limit} are not valid: give at least one image, and more than 0 seconds")
    names = [METHODS[name].name for name in (METHODS if methods is None else dict.fromkeys(methods))]
    if not names or not layers:
        raise SpecError("nothing to probe: give at least one method and one layer")
    probe = picture(model)
    shapes = {name: model.layers[name].shape for name in layers if name in model.layers}
    with torch.no_grad():
        gain, target = _gain(model, probe), int(model.outputs.predicted(model(probe)))
    examiner = _Examiner(model, probe, target, images, limit, gain)
    pairs = [(method, layer) for method in names for layer in layers]
    findings = []
    for k, (method, layer) in enumerate(pairs):
        name = f"{method}@{layer}"
        findings.append(examiner.examine(method, layer, lambda k=k, name=name: on_progress(k, len(pairs), name)))  # type: ignore[misc]
    on_progress(len(pairs), len(pairs), "")
    return Diagnosis(
        model.name, str(model.device), model.nbytes, images, shapes, tuple(findings), dict(METHODS.left_out), _model_findings(model)
    )


def _model_findings(model: Classifier) -> tuple[str, ...]:
    """Return the model's remarks, and what changes neither logits nor maps but explains time, memory or missing layers."""
    blocked = [f"no gradient passes through {each}, so that gradient methods miss what depends on it" for each in barriers(model)]
    return (*model.remarks, *blocked, *particulars(model.module, model.memory_format))


class _Enough(Exception):
    """Raised to end a probe that takes too long."""


@dataclass
class _Examiner:
    model: Classifier
    probe: Tensor
    target: int
    images: int
    limit: float
    gain: float

    def __post_init__(self) -> None:
        self._state = State(self.model.module)
        noise = torch.randn(self.probe.shape, generator=torch.Generator().manual_seed(1))
        self._moved = self.probe * (1 + 1e-6 * noise)

    def examine(self, method: str, layer: str, report: Callable[[], None]) -> Finding:
        report()
        rng, switches = torch.get_rng_state(), _switches()
        try:
            finding = self._run(method, layer, report)
        except Cancelled:
            raise
        except AttrlibError as error:
            finding = Finding(method, layer, FAILED if isinstance(error, OutOfMemory) else REFUSED, str(error))
        except Exception as error:  # noqa: BLE001  the model, or a custom method, may fail in any way
            finding = Finding(method, layer, FAILED, f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
        finally:
            changed = self._state.changes()
            if changed:
                self._state.restore()
        changed += [] if torch.equal(torch.get_rng_state(), rng) else ["the state of torch's random number generator"]
        changed += [] if _switches() == switches else ["torch's global settings"]
        return Finding(**vars(finding) | {"changed": tuple(changed)})

    def _run(self, method: str, layer: str, report: Callable[[], None]) -> Finding:
        place = self.model.layer(layer)
        whole = MethodSpec(method, layer)
        check_defined(create(whole), self.model, place)
        with self.model.session():
            # Computed once for each layer, so it is not part of any method's cost.
            self.model.split(place)
        short = self._shortened(whole)
        passes = create(whole).passes(place)
        stopwatch = _Stopwatch(self.limit, report)
        with peak_memory(self.model.device) as peak:
            try:
                result = attribute(self.model, short, self.probe, [self.target], AttributionOptions(on_progress=stopwatch.report))
                seconds, note, stopped = result.seconds, result.defects[0] or "", False
            except _Enough:
                seconds, stopped = stopwatch.estimate(), True
                note = f"stopped after {self.limit:g} s: time is estimated, the map was not checked"
        if not stopped and (seconds < QUICK or passes.gradient):
            # Run again, because measuring the memory takes time too, and because a map of rounding errors changes with the last bits.
            again = attribute(self.model, short, self._moved, [self.target])
            seconds = min(seconds, again.seconds)
            if not note and passes.forward + passes.gradient and _share(again.maps - result.maps, result.maps) > UNSTABLE:
                note = ROUNDING
        seconds *= max(1, _cost(passes)) / max(1, _cost(create(short).passes(place)))
        total = passes.forward + passes.gradient
        rows = [min(BATCH_SIZE, max(1, total) * count) for count in (1, self.images)]
        return Finding(
            method, layer, VALID, "", note, seconds, peak.nbytes,
            self.images * seconds * (self.gain if total <= 2 and self.images > 1 else 1),
            round(peak.nbytes * rows[1] / rows[0]),
        )  # fmt: skip

    def _shortened(self, spec: MethodSpec) -> MethodSpec:
        """Return the spec with every parameter that counts passes reduced to at most 16, one full chunk."""
        place = self.model.layer(spec.layer)
        for p in params_of(METHODS[spec.name]):
            if p.kind is int and isinstance(p.default, int) and p.default > BATCH_SIZE:
                fewer = MethodSpec(spec.name, spec.layer, (*spec.params, (p.name, max(int(p.low or 1), BATCH_SIZE))))
                try:
                    if _cost(create(fewer).passes(place)) < _cost(create(spec).passes(place)):
                        spec = fewer
                except AttrlibError:
                    # The other parameters do not allow the smaller value, so it stays as it is.
                    continue
        return resolve(spec)


class _Stopwatch:
    def __init__(self, limit: float, on_report: Callable[[], None]):
        self._limit, self._on_report, self._start = limit, on_report, time.perf_counter()
        self._first, self._done, self._total = self._start, 0, 0

    def report(self, done: int, total: int) -> None:
        self._on_report()
        now = time.perf_counter()
        self._first = self._first if done else now
        self._done, self._total = done, total
        if done and done < total and now - self._start > self._limit:
            raise _Enough

    def estimate(self) -> float:
        """Return the expected seconds of the whole probe: those before the first pass, and the passes extrapolated from those done."""
        return self._first - self._start + (time.perf_counter() - self._first) * self._total / self._done


def picture(model: Classifier, count: int = 1) -> Tensor:
    """Return normalised pictures (count,C,H,W) of random patches of several sizes: as in photos, regions differ, which superpixels need."""
    channels, height, width = model.input_shape
    generator, colours = torch.Generator().manual_seed(0), torch.zeros(count, channels, height, width)
    for cells in (2, 4, 8, 32):
        noise = torch.randn(count, channels, cells, cells, generator=generator)
        colours += F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return model.preprocessing.normalise(colours.sigmoid())


def _share(difference: Tensor, values: Tensor) -> float:
    """Return the norm of a difference as a share of that of the values."""
    return float(difference.norm() / values.norm().clamp_min(1e-30))


def _cost(passes: Passes) -> int:
    """Return the cost in forward passes; a forward and backward pass counts as three."""
    return passes.forward + 3 * passes.gradient


def _gain(model: Classifier, probe: Tensor) -> float:
    """Return the seconds of an image in a batch as a share of those of a single image."""
    count = BATCH_SIZE if model.device.type == "cuda" else 4
    seconds = []
    for images in (probe, probe, probe.expand(count, -1, -1, -1)):
        start = time.perf_counter()
        float(model(images).sum())
        seconds.append((time.perf_counter() - start) / len(images))
    return min(1.0, seconds[2] / seconds[1])


def _switches() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
    )
