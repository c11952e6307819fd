"""A model split into f = f_explain o f_pre at one of its layers (ML-Att, Rao et al., CVPR 2022, arXiv 2205.10435).

`before` computes the layer's output, and `after` the logits from a given output. `after` skips what comes before the layer:
modules that finish before it are replaced by stubs for the duration of the call. If the layer is a cut of the network (no path
bypasses it), the stubs return NaN in constant memory, which also proves that their values do not matter. If a path bypasses it
(a layer inside a residual block), the stubs return what the modules returned for the image.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attrlib.errors import LayerError
from attrlib.models.modules.forward import same
from attrlib.models.modules.probes import FORMATS
from attrlib.models.modules.tracing import Call, batch_dim, first_tensor, trace


class _Reached(Exception):
    """Ends a forward pass at the layer."""


@dataclass(frozen=True)
class _Stub:
    """A module that finishes before the layer: the shapes of its output for 1 and for 2 images, one pair per call."""

    path: str
    shapes: tuple[tuple[torch.Size, torch.Size], ...]
    written: tuple[bool, ...]


@dataclass
class Split:
    """A model split at one layer: `split.after(split.before(images))` is the model's output.

    Create it with `Split.at`, for one image size, and use it inside `preserved(module)`. `path=""` is the input: `before` is then
    the identity.

    Attributes:
        cell: Side of a grid of cells and index of the only cell whose positions the operations that run now see; None for all positions.
    """

    module: nn.Module
    path: str
    stubs: tuple[_Stub, ...] = ()
    cut: bool = True
    memory_format: torch.memory_format = torch.channels_last
    rest: tuple[None, ...] | None = None
    batch_dim: int = 0
    cell: tuple[int, int] | None = None
    _recorded: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)
    _images: Tensor | None = field(default=None, repr=False)
    _fill: float = torch.nan

    @classmethod
    def at(cls, module: nn.Module, path: str, probe: Tensor, memory_format: torch.memory_format = torch.channels_last) -> "Split":
        """Split a module at a layer, finding what runs downstream of it from passes over two probe images.

        Args:
            module: The network.
            path: Module path of the layer; empty for the input.
            probe: Two probe images (2,C,H,W).
            memory_format: Memory format in which the network takes images.

        Raises:
            LayerError: The layer is not called exactly once, or does not return one tensor.
        """
        if not path:
            return cls(module, path, memory_format=memory_format)
        one, two = trace(module, probe[:1])[0], trace(module, probe)[0]
        matches = [c for c in one if c.path == path]
        if len(matches) != 1:
            times = f"called {len(matches)} times" if matches else "not called"
            raise LayerError(f"layer {path!r} is {times} in a forward pass; choose a layer that is called once")
        if matches[0].tensor is None:
            raise LayerError(f"layer {path!r} returns a {type(matches[0].output).__name__}, not a tensor; choose another layer")
        output = matches[0].output
        split = cls(
            module, path, _find_stubs(one, two, matches[0]), rest=tuple(None for _ in output[1:]) if isinstance(output, tuple) else None
        )
        pair = next(c.tensor for c in two if c.path == path)
        split.batch_dim = 0 if pair is None else batch_dim(matches[0].tensor.shape, pair.shape)
        split.cut = split._is_cut(probe)
        split.memory_format = split._format(probe, memory_format)
        return split

    def fresh(self) -> "Split":
        """Return a copy without recorded images; two contexts that are used at the same time must not share a split."""
        return Split(self.module, self.path, self.stubs, self.cut, self.memory_format, self.rest, self.batch_dim)

    def before(self, images: Tensor) -> Tensor:
        """Return the layer's output for normalised images (B,C,H,W), detached."""
        if not self.path:
            return images
        self._images = images
        reached: list[Tensor] = []

        def stop(_module: nn.Module, _args: Any, output: Tensor) -> None:
            tensor = first_tensor(output)
            assert tensor is not None, "the output was a tensor in `at`"
            reached.append(tensor.detach())
            raise _Reached

        if not self.cut:
            self._record(images)
        handle = self.module.get_submodule(self.path).register_forward_hook(stop)
        try:
            with torch.no_grad():
                self.module(images.clone())
        except _Reached:
            return reached[0].transpose(0, 1) if self.batch_dim else reached[0]
        finally:
            handle.remove()
        raise LayerError(f"layer {self.path!r} was not reached in the forward pass")

    def skipping(self, images: Tensor) -> "Split":
        """Return a copy that takes outputs of the layer for images (B,C,H,W) without a pass up to it, which is not needed if it is a cut."""
        assert self.cut, "what bypasses the layer takes a pass"
        split = self.fresh()
        split._images = images
        return split

    def after(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the model's output when the layer returns `output`, differentiable with respect to it.

        Args:
            output: Output (N, ...) of the layer.
            rows: Index (N,) of the image of the last `before` that each row is derived from; needed only if the layer is not a cut.
        """
        # Copy, because later modules may write into it (in-place ReLU) and must not change the caller's tensor.
        # Not a view, because a custom backward rule cannot write into one.
        value = (output.transpose(0, 1) if self.batch_dim else output).clone()
        if not self.path:
            return self.module(value)
        n = len(output)
        with ExitStack() as stack:
            result = value if self.rest is None else (value, *self.rest)
            stack.enter_context(_returns(self.module.get_submodule(self.path), lambda _: result))
            for stub in self.stubs:
                stack.enter_context(_returns(self.module.get_submodule(stub.path), self._source(stub, n, rows, value)))
            return self.module(self._input(n, rows, value))

    def seen(self, factors: Tensor) -> Tensor:
        """Return the part of factors (k,1,h,w) on the layer's output that the model sees: here all of it."""
        return factors

    def _input(self, n: int, rows: Tensor | None, like: Tensor) -> Tensor:
        if self._images is None:
            raise LayerError(f"layer {self.path!r}: call before() first")
        if self.cut:
            return like.new_full((), self._fill).expand(n, *self._images.shape[1:])
        return _rows(self._images, rows, n).clone()

    def _source(self, stub: _Stub, n: int, rows: Tensor | None, like: Tensor) -> Callable[[int], Tensor | None]:
        def value(call: int) -> Tensor | None:
            if call >= len(stub.shapes):
                return None
            one, two = stub.shapes[call]
            if self.cut:
                shape = (one[0] + (n - 1) * (two[0] - one[0]), *one[1:]) if len(one) else ()
                filler = like.new_full((), self._fill).expand(shape)
                return filler.clone() if stub.written[call] else filler
            recorded = self._recorded[stub.path, call]
            per_image = two[0] - one[0] if len(one) else 0
            if not per_image:
                return recorded.clone() if stub.written[call] else recorded
            parts = recorded.view(-1, per_image, *recorded.shape[1:])
            picked = _rows(parts, rows, n).reshape(n * per_image, *recorded.shape[1:])
            return picked.clone() if stub.written[call] else picked

        return value

    def _record(self, images: Tensor) -> None:
        self._recorded = {}
        calls: dict[str, int] = {}
        stubs = {s.path: s for s in self.stubs}

        def record(path: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                call = calls.get(path, 0)
                calls[path] = call + 1
                if call < len(stubs[path].shapes):
                    self._recorded[path, call] = output.clone() if stubs[path].written[call] else output

            return hook

        with ExitStack() as stack, torch.no_grad():
            for path in stubs:
                stack.callback(self.module.get_submodule(path).register_forward_hook(record(path)).remove)
            self.module(images.clone())

    def _format(self, probe: Tensor, memory_format: torch.memory_format) -> torch.memory_format:
        """Return the memory format in which what runs downstream of the layer takes its output: that of the network if possible."""
        output = self.before(probe)
        if output.ndim != 4 or output.is_contiguous(memory_format=memory_format):
            return memory_format
        with torch.no_grad():
            try:
                if same(self.after(output.contiguous(memory_format=memory_format)), self.after(output)):
                    return memory_format
            except RuntimeError:
                # The module flattens its values with `view`, for example.
                pass
        return next((form for form in FORMATS if output.is_contiguous(memory_format=form)), memory_format)

    def _is_cut(self, probe: Tensor) -> bool:
        output = self.before(probe)
        with torch.no_grad():
            expected = self.module(probe.clone())
            scale = float(expected.abs().max())
            # Infinity too, because comparisons hide NaN.
            for self._fill in (torch.inf, torch.nan):
                # Code that depends on values (an assertion, a branch) may reject these: then the layer is not a cut.
                try:
                    result = self.after(output)
                except Exception:  # noqa: BLE001
                    return False
                if not torch.allclose(result, expected, rtol=1e-3, atol=1e-4 * scale):
                    return False
        return True


def _by_image(one: Tensor, two: Tensor) -> bool:
    """Return whether outputs for one and for two images differ at most in their first dimension."""
    return one.shape[1:] == two.shape[1:] and one.ndim == two.ndim


def _rows(values: Tensor, rows: Tensor | None, n: int) -> Tensor:
    if len(values) == 1:
        return values.expand(n, *values.shape[1:])
    return values if rows is None else values[rows]


def _find_stubs(one: list[Call], two: list[Call], layer: Call) -> tuple[_Stub, ...]:
    """Find the outermost modules that return a tensor and finish before the layer starts.

    Modules that write into their input, or whose output does not have the images in the first dimension, must still run.
    """
    stubs: dict[str, list[tuple[Call, Call]]] = {}
    covered = -1
    for a, b in zip(one, two, strict=True):
        if a.start > covered and a.end < layer.start and isinstance(a.output, Tensor) and not a.writes and _by_image(a.output, b.output):
            covered = a.end
            stubs.setdefault(a.path, []).append((a, b))
    # Calls of a module both as a stub and inside another stub would be miscounted: such a module still runs.
    counts = {path: sum(c.path == path and c.end < layer.start for c in one) for path in stubs}
    return tuple(
        _Stub(path, tuple((a.output.shape, b.output.shape) for a, b in calls), tuple(a.changed_later for a, _ in calls))
        for path, calls in stubs.items()
        if counts[path] == len(calls)
    )


@contextmanager
def _returns(module: nn.Module, value: Callable[[int], Any]) -> Iterator[None]:
    """Make call k of the module return `value(k)` without running; the module runs if that is None."""
    original = module.forward
    shadowed = module.__dict__.get("forward")
    hooks = module._forward_hooks
    calls = iter(range(1 << 40))

    def forward(*args: Any, **kwargs: Any) -> Any:
        result = value(next(calls))
        return original(*args, **kwargs) if result is None else result

    module.forward = forward
    # The value was recorded after the module's hooks, which must not run on it again.
    module._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        module._forward_hooks = hooks
        if shadowed is None:
            del module.forward
        else:
            module.forward = shadowed
