"""Layers with a spatial map: the layout of their tensors, and which of them are `Input`, `Middle` and `Final`."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attrlib.errors import LayerError, overwritten
from attrlib.models.modules.forward import same
from attrlib.models.modules.tracing import Call, batch_dim, trace
from attrlib.models.split import Split

Kind = Literal["NCHW", "NHWC", "tokens"]
NAMED = ("Input", "Middle", "Final")
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Softmax, nn.MultiheadAttention)


@dataclass(frozen=True)
class Layout:
    """Where the `height` x `width` positions of a layer's tensor are: (B,C,h,w), (B,h,w,C) or tokens (B,prefix+h*w,C).

    Attributes:
        kind: `NCHW`, `NHWC` or `tokens`.
        channels: Number of channels.
        height: Height of the map in positions.
        width: Width of the map in positions.
        prefix: Number of tokens before those of the map, such as a class token.
    """

    kind: Kind
    channels: int
    height: int
    width: int
    prefix: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""
        return self.channels, self.height, self.width

    def spatial(self, values: Tensor) -> Tensor:
        """Return the layer's tensor as (B,C,h,w), without prefix tokens."""
        if self.kind == "tokens":
            return values[:, self.prefix :].transpose(1, 2).unflatten(2, (self.height, self.width))
        return values.permute(0, 3, 1, 2) if self.kind == "NHWC" else values

    def native(self, factors: Tensor, prefix_value: float = 1.0) -> Tensor:
        """Return values (B,C,h,w) in the layer's layout; the inverse of `spatial`.

        Factors (B,1,h,w) get a shape that broadcasts with the layer's tensor.

        Args:
            factors: Values (B,C,h,w), or factors (B,1,h,w).
            prefix_value: Value of the prefix tokens.
        """
        if self.kind == "tokens":
            tokens = factors.flatten(2).transpose(1, 2)
            prefix = tokens.new_full((len(tokens), self.prefix, tokens.shape[2]), prefix_value)
            return torch.cat([prefix, tokens], dim=1)
        return factors.permute(0, 2, 3, 1) if self.kind == "NHWC" else factors


@dataclass(frozen=True)
class Layer:
    """A layer to attribute to: its name (`Input`, `Middle`, `Final` or the module path), path and layout."""

    name: str
    path: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""
        return self.layout.shape


def infer_layout(shape: Sequence[int], image_size: tuple[int, int]) -> Layout | None:
    """Infer how an output of this shape covers the image.

    A grid of positions must have the image's aspect ratio (up to a pixel of rounding) and at least four positions. Its size must be
    about that of the image, or at most about half of it: no stride lies in between, but the side of an attention matrix does.

    Args:
        shape: Shape of the output for one image; a first dimension other than 1 counts windows or heads.
        image_size: Height and width of the image in pixels.

    Returns:
        The layout, or None if the output is not a spatial map.
    """

    def fits(height: int, width: int) -> bool:
        big, wide = image_size
        same_aspect = abs(height * wide - width * big) <= max(big, wide)
        share = height / big
        return same_aspect and height * width >= 4 and (share <= 0.55 or 0.93 <= share <= 1 + 2 / big)

    if not len(shape) or shape[0] != 1:
        return None
    if len(shape) == 4:
        _, a, b, c = shape
        exact = [x * image_size[1] == y * image_size[0] for x, y in ((a, b), (b, c))]
        if fits(b, c) and not (fits(a, b) and exact == [True, False]):
            return Layout("NCHW", a, b, c)
        return Layout("NHWC", c, a, b) if fits(a, b) else None
    if len(shape) == 3:
        _, count, channels = shape
        for prefix in range(min(9, count)):
            height = round(math.sqrt((count - prefix) * image_size[0] / image_size[1]))
            width = (count - prefix) // height if height else 0
            divides = height and width and image_size[0] % height == 0 and image_size[1] % width == 0
            if divides and height * width == count - prefix and fits(height, width):
                return Layout("tokens", channels, height, width, prefix)
    return None


def find_layers(module: nn.Module, probe: Tensor, names: dict[str, str] | None = None) -> dict[str, Layer]:
    """Find `Input`, `Middle`, `Final` and every module path with a spatial map, in order of execution.

    Call it inside `preserved(module)`.

    Args:
        module: The network.
        probe: Two probe images (2,C,H,W).
        names: Module paths that `Middle` and `Final` stand for; by default they are inferred.

    Raises:
        LayerError: A path in `names` yields no spatial map or is called more than once.
    """
    size = (probe.shape[2], probe.shape[3])
    calls, result = trace(module, probe[:1])
    times = Counter(c.path for c in calls)
    finished = sorted((c for c in calls if c.path and times[c.path] == 1), key=lambda c: c.end)
    attending = [c.path for c in finished if c.tensor is not None and c.with_attention]
    if attending and not _is_ignored(module, attending, probe[:1], result):
        finished = [c for c in finished if c.path not in attending]
    layers = {}
    sequences = _sequence_first(module, probe, finished)
    for call in finished:
        layout = sequences.get(call.path) or (None if call.tensor is None else infer_layout(call.tensor.shape, size))
        if layout is not None and not isinstance(module.get_submodule(call.path), _PASSIVE):
            layers[call.path] = Layer(call.path, call.path, layout)
    named = {"Input": Layer("Input", "", Layout("NCHW", *probe.shape[1:]))}
    for name, path in (names or {}).items():
        if path not in layers:
            raise LayerError(f"{path!r}, given as {name}, yields no spatial map or is called more than once; choose another module path")
    paths = (default_layers(module, layers, probe) if layers else {}) | (names or {})
    for name in NAMED[1:]:
        if paths.get(name) in layers:
            named[name] = Layer(name, paths[name], layers[paths[name]].layout)
    return named | layers


def _is_ignored(module: nn.Module, paths: Sequence[str], images: Tensor, expected: object) -> bool:
    """Return whether the network returns the same if blocks return None in place of their attention."""

    def without(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (output[0], *(None for _ in output[1:]))

    with ExitStack() as stack, torch.no_grad(), suppress(Exception):
        for path in paths:
            stack.callback(module.get_submodule(path).register_forward_hook(without).remove)
        return same(module(images.clone()), expected)
    return False


def _sequence_first(module: nn.Module, probe: Tensor, calls: Sequence[Call]) -> dict[str, Layout]:
    """Return the layouts of outputs (tokens,B,C), as of `nn.TransformerEncoder`, by path; `Split` puts the batch first."""
    size = (probe.shape[2], probe.shape[3])
    shapes = {c.path: c.tensor.shape for c in calls if c.tensor is not None and c.tensor.ndim == 3 and c.tensor.shape[:2] != (1, 1)}
    layouts = {path: infer_layout((1, s[0], s[2]), size) for path, s in shapes.items() if s[1] == 1}
    if not any(layouts.values()):
        return {}
    pairs = {c.path: c.tensor.shape for c in trace(module, probe[:2])[0] if c.tensor is not None}
    return {path: found for path, found in layouts.items() if found and batch_dim(shapes[path], pairs.get(path, shapes[path])) == 1}


def default_layers(module: nn.Module, layers: dict[str, Layer], probe: Tensor) -> dict[str, str]:
    """Return the default paths of `Middle` and `Final`.

    `Final` is the last stage that still has positions and from which the logits depend on all of them. The last block of a vision
    transformer passes on its class token only, so `Final` is the block before.

    `Middle` is the last stage at an eighth of the input size, before `Final` if possible. If all stages have the same size, it is
    the one at half the depth.

    A head that maps every position to classes (B-cos, SqueezeNet) does not count as a stage. VGG follows Rao et al.: `Final` is the ReLU
    before the last pooling, `Middle` the first ReLU after the third.

    Args:
        module: The network.
        layers: The layers with a spatial map, by path.
        probe: Probe images (B,C,H,W).
    """
    vgg = _vgg_layers(module)
    if vgg:
        return vgg
    heights = {layer.layout.height for layer in layers.values()}
    if len(heights) == 1:
        blocks = stages(module, layers)
        middle = blocks[(len(blocks) - 1) // 2 : (len(blocks) + 1) // 2]
        final = _last_read_at_all_positions(module, layers, blocks, probe)
    else:
        blocks = stages(module, layers)
        final = _last_block(module, layers, blocks, probe)
        if layers[final[0]].layout.prefix:
            within = [path for path in layers if any(True for _ in module.get_submodule(path).children())]
            final = _read_at_all_positions(module, layers, within, probe)[-1:] or final
        earlier = (
            blocks[: blocks.index(final[0])]
            if final[0] in blocks
            else [p for p in blocks if _finish(layers, p) < _finish(layers, final[0])]
        )
        before = earlier or blocks
        nearest = min((abs(layers[p].layout.height - probe.shape[2] // 8) for p in before), default=0)
        middle = _last_block(module, layers, [p for p in before if abs(layers[p].layout.height - probe.shape[2] // 8) == nearest], probe)
    return {name: path for name, paths in (("Middle", middle), ("Final", final)) for path in paths}


def stages(module: nn.Module, layers: dict[str, Layer]) -> list[str]:
    """Return the stages before the head: the outermost modules with one resolution each, or the blocks if all of them have the same.

    Args:
        module: The network.
        layers: The layers with a spatial map, by path.
    """
    if len({layer.layout.height for layer in layers.values()}) == 1:
        return _repeated_blocks(module, layers)
    heads = [path for path, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    found = _stages(module, layers, "")
    return [p for p in found if not any(f"{head}.".startswith(f"{p}.") for head in heads)] or found


def _last_block(module: nn.Module, layers: dict[str, Layer], paths: list[str], probe: Tensor) -> list[str]:
    """Return the last path that is no part of a block, such as a projection of its attention; the last one if all are, [] if there is none."""
    return next(([path] for path in reversed(paths) if not _is_part(module, layers, path, probe)), paths[-1:])


def _is_part(module: nn.Module, layers: dict[str, Layer], path: str, probe: Tensor) -> bool:
    """Return whether other tokens bypass a layer of tokens that is a single operation, or lies inside a block without a map."""
    parent = module.get_submodule(_parent(path))
    single = not any(True for _ in module.get_submodule(path).children())
    inside = parent is not module and not isinstance(parent, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    return layers[path].layout.kind == "tokens" and (single or inside) and not Split.at(module, path, probe[:2]).cut


def _children(module: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" if path else name for name, _ in module.get_submodule(path).named_children()]


def _repeated_blocks(module: nn.Module, layers: dict[str, Layer]) -> list[str]:
    """Return the longest list of siblings of one type: the blocks of a network with the same resolution throughout.

    Layers without submodules inside such a block, as the projections of a self-attention, are no blocks. If the blocks are grouped in
    stages, those of all stages are returned.
    """
    lists = [siblings for path, _ in module.named_modules() for siblings in _siblings(module, layers, path)]
    repeated = [f"{block}." for siblings in lists if len(siblings) > 1 for block in siblings]
    blocks: list[str] = []
    for siblings in lists:
        leaves = not any(True for _ in module.get_submodule(siblings[0]).children())
        if len(siblings) > len(blocks) and not (leaves and siblings[0].startswith(tuple(repeated))):
            blocks = siblings
    stage = _parent(blocks[0]) if blocks else ""
    if not stage:
        return blocks
    kind, stage_kind = type(module.get_submodule(blocks[0])), type(module.get_submodule(stage))
    stages = [path for path in _children(module, _parent(stage)) if type(module.get_submodule(path)) is stage_kind]
    return [c for path in stages for c in _children(module, path) if c in layers and type(module.get_submodule(c)) is kind]


def _siblings(module: nn.Module, layers: dict[str, Layer], path: str) -> list[list[str]]:
    """Return the layers directly inside a module, grouped by type."""
    of_type: dict[type, list[str]] = {}
    for child in _children(module, path):
        if child in layers:
            of_type.setdefault(type(module.get_submodule(child)), []).append(child)
    return list(of_type.values())


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _stages(module: nn.Module, layers: dict[str, Layer], path: str) -> list[str]:
    """Return the outermost modules in which the resolution is constant, or changes once below the top level."""
    children = [c for c in _children(module, path) if c in layers or any(p.startswith(c + ".") for p in layers)]
    sizes = {layers[c].layout.height for c in children if c in layers}
    one_change = path.count(".") > 0 and len(sizes) == 2
    if path in layers and (len(sizes) <= 1 or one_change):
        return [path]
    return [p for c in sorted(children, key=lambda c: _finish(layers, c)) for p in _stages(module, layers, c)]


def _finish(layers: dict[str, Layer], path: str) -> int:
    """Return the position in the order of execution of the module, or else of the last layer inside it."""
    return max(i for i, p in enumerate(layers) if p == path or p.startswith(path + "."))


def _vgg_layers(module: nn.Module) -> dict[str, str] | None:
    features = getattr(module, "features", None)
    if type(module).__name__ != "VGG" or not isinstance(features, nn.Sequential):
        return None
    relus = [i for i, m in enumerate(features) if isinstance(m, nn.ReLU)]
    pools = [i for i, m in enumerate(features) if isinstance(m, nn.MaxPool2d)]
    middle = [i for i in relus if len(pools) > 2 and i > pools[2]]
    final = [i for i in relus if pools and i < pools[-1]]
    return {"Middle": f"features.{middle[0]}", "Final": f"features.{final[-1]}"} if middle and final else None


def _last_read_at_all_positions(module: nn.Module, layers: dict[str, Layer], blocks: list[str], probe: Tensor) -> list[str]:
    if read := _read_at_all_positions(module, layers, blocks, probe):
        return read[-1:]
    # A head that is still all zero reads nothing. Then assume that the head reads the class tokens, if there are any.
    return blocks[-2:-1] if layers[blocks[-1]].layout.prefix else blocks[-1:]


def _read_at_all_positions(module: nn.Module, layers: dict[str, Layer], blocks: list[str], probe: Tensor) -> list[str]:
    """Return the blocks whose positions the logits read, not only the tokens before them; [] if there are no gradients."""
    outputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor | None] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: outputs.__setitem__(path, output if isinstance(output, Tensor) else output[0])

    with ExitStack() as stack, torch.enable_grad():
        for path in blocks:
            stack.callback(module.get_submodule(path).register_forward_hook(keep(path)).remove)
        logits = module(probe.clone().requires_grad_().clone())
        # Where the model cuts the gradient, neither the logits nor the layers upstream belong to a graph.
        reached = [path for path in blocks if outputs[path].requires_grad] if logits.requires_grad else []
        try:
            if reached:
                values = torch.autograd.grad(logits.square().sum(), [outputs[path] for path in reached], allow_unused=True)
                gradients = dict(zip(reached, values, strict=True))
        except RuntimeError as error:
            if not overwritten(error):
                raise
            return []
    return [
        path
        for path, g in gradients.items()
        if g is not None and layers[path].layout.spatial(g if len(g) == len(probe) else g.transpose(0, 1)).abs().amax() > 0
    ]
