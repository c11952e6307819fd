import copy
from collections.abc import Callable
from functools import partial

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import pytest
import timm
import torch
from support.nets import (
    CLASSES,
    SIZE,
    Counted,
    Dense,
    FiniteOnly,
    Fused,
    Plain,
    Residual,
    SharedActivation,
    SkipAround,
    Transformer,
    Windows,
    WrittenAround,
    made,
    pictures,
)
from torch import Tensor, nn

from attrlib.errors import LayerError, ModelError
from attrlib.models.modules.preserve import preserved
from attrlib.models.split import Split

# Net, layer, and whether the layer is a cut, so that no path bypasses it.
CASES = [
    (Plain, "", True),
    (Plain, "features.0", True),
    (Plain, "features.1", True),
    (Plain, "features.2", True),
    (Plain, "features.3", True),
    (Plain, "features.6", True),
    (Plain, "features", True),
    (Residual, "stem", True),
    (Residual, "blocks.0", True),
    (Residual, "blocks.0.conv1", False),
    (Residual, "blocks.0.bn1", False),
    (Residual, "blocks.1.conv2", False),
    (Residual, "blocks.1.bn2", False),
    (SharedActivation, "conv1", True),
    (SharedActivation, "inner.0", True),
    (SharedActivation, "inner", True),
    (SharedActivation, "conv2", True),
    (SharedActivation, "conv3", True),
    (SkipAround, "conv1", False),
    (SkipAround, "conv2", False),
    (SkipAround, "conv3", True),
    (WrittenAround, "inner.0", True),
    (WrittenAround, "conv2", False),
    (FiniteOnly, "conv1", False),
    (FiniteOnly, "conv2", False),
    (Transformer, "patch", True),
    (Transformer, "blocks.0", True),
    (Transformer, "blocks.0.norm1", False),
    (Transformer, "blocks.1.attn.qkv", False),
    (Transformer, "blocks.2.mlp", False),
    (Transformer, "norm", True),
    (Windows, "last", False),
    (Dense, "layers.0", False),
    (Dense, "layers.1", False),
    (Dense, "layers.2", False),
]
IDS = [f"{net.__name__}-{path or 'Input'}" for net, path, _ in CASES]
each_case = pytest.mark.parametrize(("net", "path", "cut"), CASES, ids=IDS)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def output_of(module: nn.Module, path: str, images: Tensor) -> Tensor:
    """The layer's output as a hook sees it, before anything writes into it."""
    if not path:
        return images
    kept: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(lambda _m, _a, output: kept.append(output.clone()))
    with torch.no_grad():
        module(images.clone())
    handle.remove()
    return kept[0]


def logits_where(module: nn.Module, path: str, images: Tensor, output: Tensor) -> Tensor:
    """The logits when a hook puts `output` in the place of the layer's output."""
    if not path:
        return module(output)
    handle = module.get_submodule(path).register_forward_hook(lambda *_: output.clone())
    try:
        return module(images)
    finally:
        handle.remove()


def gradient_at(module: nn.Module, path: str, images: Tensor, weights: Tensor) -> Tensor:
    """The gradient at the layer in an ordinary pass; the hook's copy protects the layer's output from in-place writes."""
    images = images.clone().requires_grad_()
    kept = [images]

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept[:] = [output]
        return output.clone()

    handle = module.get_submodule(path).register_forward_hook(hook) if path else None
    logits = module(images)
    if handle:
        handle.remove()
    return torch.autograd.grad((logits * weights).sum(), kept)[0]


def split_of(module: nn.Module, path: str, size: tuple[int, int] = (SIZE, SIZE)) -> Split:
    return Split.at(module, path, pictures(2, *size, seed=99))


@each_case
def test_cuts_are_detected(net, path, cut):
    module = made(net)
    with preserved(module):
        assert split_of(module, path).cut is cut


@each_case
def test_before_is_the_output_that_a_hook_sees(net, path, cut):
    module, images = made(net), pictures(3)
    expected = output_of(module, path, images)
    with preserved(module):
        close(split_of(module, path).before(images), expected)


@each_case
def test_after_of_before_matches_the_model(net, path, cut):
    module, images = made(net), pictures(3)
    with torch.no_grad():
        expected = module(images)
    with preserved(module):
        split = split_of(module, path)
        close(split.after(split.before(images)), expected)


@each_case
def test_after_of_another_output_matches_a_hook(net, path, cut):
    module, images = made(net), pictures(3)
    own = output_of(module, path, images)
    other = own + torch.randn(own.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = logits_where(module, path, images, other)
        unchanged = module(images)
    assert not torch.allclose(expected, unchanged, atol=1e-3)
    with preserved(module):
        split = split_of(module, path)
        split.before(images)
        close(split.after(other), expected)


@each_case
def test_the_gradient_at_the_layer_is_that_of_an_ordinary_pass(net, path, cut):
    module, images = made(net), pictures(3)
    weights = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(7))
    expected = gradient_at(copy.deepcopy(module), path, images, weights)
    assert expected.abs().max() > 0
    with preserved(module):
        split = split_of(module, path)
        output = split.before(images).clone().requires_grad_()
        (found,) = torch.autograd.grad((split.after(output) * weights).sum(), output)
    close(found, expected)


@each_case
def test_after_does_not_change_the_given_output_the_images_or_recorded_values(net, path, cut):
    module, images = made(net), pictures(2)
    with torch.no_grad():
        expected = module(images)
    with preserved(module):
        split = split_of(module, path)
        output = split.before(images)
        given = output.clone()
        for _ in range(3):
            close(split.after(given), expected)
        assert torch.equal(given, output)
        assert torch.equal(images, pictures(2))


@each_case
def test_rows_may_belong_to_several_images_in_any_order(net, path, cut):
    module, images = made(net), pictures(3)
    rows = torch.tensor([2, 0, 0, 1, 2, 2, 1])
    noise = torch.randn(7, *output_of(module, path, images).shape[1:], generator=torch.Generator().manual_seed(3))
    given = output_of(module, path, images)[rows] + noise
    with torch.no_grad():
        expected = torch.cat([logits_where(module, path, images[r : r + 1], given[i : i + 1]) for i, r in enumerate(rows.tolist())])
    with preserved(module):
        split = split_of(module, path)
        split.before(images)
        close(split.after(given, rows), expected)


@each_case
def test_rows_of_a_single_image_need_no_mapping(net, path, cut):
    module, image = made(net), pictures(1)
    given = output_of(module, path, image) * torch.linspace(-1, 2, 5).view(5, *[1] * (output_of(module, path, image).ndim - 1))
    with torch.no_grad():
        expected = torch.cat([logits_where(module, path, image, g[None]) for g in given])
    with preserved(module):
        split = split_of(module, path)
        split.before(image)
        close(split.after(given), expected)


@each_case
def test_a_row_does_not_depend_on_the_others(net, path, cut):
    module, images = made(net), pictures(4)
    with preserved(module):
        split = split_of(module, path)
        together = split.before(images)
        logits = split.after(together)
        for i in range(4):
            alone = split.before(images[i : i + 1])
            close(together[i : i + 1], alone)
            close(logits[i : i + 1], split.after(alone))


@pytest.mark.parametrize("size", [(24, 24), (16, 32), (36, 20)])
@pytest.mark.parametrize(("net", "path"), [(Plain, "features.2"), (Residual, "blocks.1.conv2"), (SkipAround, "conv2"), (Windows, "last")])
def test_an_image_size_other_than_that_of_the_model(net, path, size):
    module, images = made(net), pictures(3, *size)
    model = attrlib.wrap_model(module, SIZE)
    own = output_of(module, path, images)
    rows = torch.tensor([1, 2, 0])
    with torch.no_grad():
        expected, mixed = module(images), logits_where(module, path, images[rows], own[rows] * 2)
    with model.session():
        split = model.split(model.layer(path), images.shape[1:])
        close(split.after(split.before(images)), expected)
        close(split.after(own[rows] * 2, rows), mixed)


def test_a_later_before_replaces_the_images_of_an_earlier_one():
    module = made(SkipAround)
    first, second = pictures(2, seed=11), pictures(3, seed=12)
    with torch.no_grad():
        expected = module(second)
    with preserved(module):
        split = split_of(module, "conv2")
        split.before(first)
        close(split.after(split.before(second)), expected)


@pytest.mark.parametrize("skip", [False, True])
def test_after_runs_nothing_upstream_of_the_layer(skip):
    module = made(Counted, skip)
    with preserved(module):
        split = split_of(module, "third")
        assert split.cut is not skip
        output = split.before(pictures(2))
        start = module.runs
        split.after(output)
        split.after(output)
        assert [now - then for now, then in zip(module.runs, start, strict=True)] == [0, 0, 0, 2]


def test_before_runs_nothing_downstream_of_a_cut():
    module = made(Counted, False)
    with preserved(module):
        split = split_of(module, "second")
        start = module.runs
        split.before(pictures(2))
        assert [now - then for now, then in zip(module.runs, start, strict=True)] == [1, 1, 0, 0]


def test_after_needs_a_before():
    module = made(Plain)
    with preserved(module):
        split = Split(module, "features.2")
        with pytest.raises(LayerError, match=r"call before\(\) first"):
            split.after(torch.zeros(1, 6, 8, 8))


class Odd(nn.Module):
    """Layers that cannot be split at: one is called twice, one never, one returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.never = nn.Conv2d(3, 3, 1)
        self.lstm = nn.LSTM(3, CLASSES, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.twice(self.twice(x)).mean(2).transpose(1, 2))[0].mean(1)


@pytest.mark.parametrize(("path", "reason"), [("twice", "called 2 times"), ("never", "not called"), ("lstm", "returns a tuple")])
def test_layers_that_cannot_be_split_at_are_named_with_the_reason(path, reason):
    module = made(Odd)
    with preserved(module), pytest.raises(LayerError, match=reason):
        split_of(module, path)


@pytest.mark.parametrize(
    ("name", "options", "paths"),
    [
        ("resnet18", {}, ["layer1.0.conv1", "layer2", "layer3.0.downsample", "layer4.1.bn2"]),
        ("densenet121", {}, ["features.denseblock1.denselayer2.conv1", "features.denseblock2"]),
        ("mobilenetv3_large_100", {}, ["blocks.2.1.se", "blocks.3"]),
        ("vit_tiny_patch16_224", {"img_size": 64}, ["patch_embed", "blocks.3.attn", "blocks.5", "blocks.10.mlp.fc1"]),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}, ["layers.1.blocks.1.mlp", "layers.2"]),
    ],
)
def test_published_networks_can_be_split(name, options, paths):
    module, images = made(partial(timm.create_model, num_classes=CLASSES, **options), name), pictures(2, 64)
    weights = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = module(images)
    rows = torch.tensor([1, 0, 1])
    for path in paths:
        expected = gradient_at(module, path, images, weights)
        with preserved(module):
            split = split_of(module, path, (64, 64))
            output = split.before(images)
            close(split.after(output[rows], rows), logits[rows])
            leaf = output.clone().requires_grad_()
            (found,) = torch.autograd.grad((split.after(leaf) * weights).sum(), leaf)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()) + 1e-9)


# Side effects.


def snapshot(module: nn.Module) -> tuple[dict, dict[str, Tensor]]:
    modules = {
        path: (m.training, sorted(vars(m)), {k: list(v) for k, v in vars(m).items() if "hook" in k and isinstance(v, dict)})
        for path, m in module.named_modules()
    }
    parameters = {k: (id(p), p.requires_grad, p._version, p.grad is None) for k, p in module.named_parameters()}
    buffers = {k: (id(b), b._version) for k, b in module.named_buffers()}
    return {**modules, **parameters, **buffers}, {k: v.clone() for k, v in module.state_dict().items()}


def assert_untouched(module: nn.Module, earlier: tuple[dict, dict[str, Tensor]]) -> None:
    flags, state = snapshot(module)
    assert flags == earlier[0]
    assert state.keys() == earlier[1].keys()
    assert all(torch.equal(v, earlier[1][k]) for k, v in state.items())


def mixed_flags(module: nn.Module) -> nn.Module:
    """Some submodules in training mode and some not, some parameters frozen, one gradient there, one forward replaced, one hook."""
    for i, m in enumerate(module.modules()):
        m.training = i % 3 != 1
    for i, p in enumerate(module.parameters()):
        p.requires_grad_(i % 2 == 0)
    next(module.parameters()).grad = torch.ones_like(next(module.parameters()))
    return module


def use_everything(model: attrlib.Classifier, path: str) -> None:
    layer = model.layer(path)
    images = pictures(2).requires_grad_()
    with model.session():
        split = model.split(layer)
        output = split.before(images).clone().requires_grad_()
        split.after(output).sum().backward()
        assert output.grad is not None
    model(images).sum().backward()
    assert images.grad is not None
    assert model.digest


@pytest.mark.parametrize(
    ("net", "path"),
    [(Plain, "features.2"), (Residual, "blocks.0.conv2"), (SharedActivation, "conv3"), (SkipAround, "conv2"), (Fused, "late")],
)
def test_no_hooks_or_stubs_remain_on_the_module(net, path):
    module = mixed_flags(made(net))
    earlier = snapshot(module)
    use_everything(attrlib.wrap_model(module, SIZE), path)
    assert_untouched(module, earlier)


def test_a_custom_forward_and_a_custom_hook_survive():
    module = made(Fused)
    own_forward, calls = module.early.forward, []
    module.early.forward = own_forward
    handle = module.late.register_forward_hook(lambda *_: calls.append(1))
    earlier = snapshot(module)
    use_everything(attrlib.wrap_model(module, SIZE), "late")
    assert_untouched(module, earlier)
    assert vars(module.early)["forward"] is own_forward
    assert calls
    handle.remove()


Splits = dict[str, Split]
ACTIONS: dict[str, Callable[[attrlib.Classifier, Splits], object]] = {
    "wrap": lambda model, splits: attrlib.wrap_model(model.module, SIZE),
    "call": lambda model, splits: model(pictures(1)),
    "layers": lambda model, splits: model.layers,
    "split": lambda model, splits: split_of(model.module, "late"),
    "before": lambda model, splits: splits["late"].before(pictures(2)),
    "after": lambda model, splits: splits["early"].after(torch.ones(2, 4, SIZE, SIZE)),
}


@pytest.mark.parametrize("error", [RuntimeError("blown"), KeyboardInterrupt(), MemoryError()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("action", ACTIONS)
def test_no_hooks_or_stubs_remain_if_the_model_raises(action, error):
    module = mixed_flags(made(Fused))
    earlier = snapshot(module)
    model = attrlib.wrap_model(module, SIZE)
    with model.session():
        splits = {path: split_of(module, path) for path in ("early", "late")}
        splits["early"].before(pictures(2))
    module.fuse.error = error
    expected = ModelError if action == "wrap" and isinstance(error, RuntimeError) else type(error)
    with pytest.raises(expected), model.session():
        ACTIONS[action](model, splits)
    module.fuse.error = None
    assert_untouched(module, earlier)
    use_everything(model, "late")
    assert_untouched(module, earlier)


def test_no_hooks_or_stubs_remain_if_the_code_inside_a_session_raises():
    module = mixed_flags(made(Fused))
    earlier = snapshot(module)
    model = attrlib.wrap_model(module, SIZE)

    def context() -> None:
        with model.session(), model.session():
            assert not any(m.training for m in module.modules())
            assert not any(p.requires_grad for p in module.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        context()
    assert_untouched(module, earlier)


# Known limits of the product code; each test states what should hold.


class FastPath(nn.Module):
    """PyTorch's own encoder skips its submodules' `forward` when no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class IgnoresReturn(nn.Module):
    """Calls an in-place ReLU for its side effect alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        self.act(y)
        return self.fc((self.conv2(y) + y).mean((2, 3)))


class WritesInput(SkipAround):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2).add_(1))


class SequenceFirst(nn.Module):
    """A stub with tokens in the first dimension and images in the second, and a skip around the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(8, 8)
        self.last = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(self.patch(x).flatten(2).permute(2, 0, 1))
        grid = tokens.permute(1, 2, 0).unflatten(2, (4, 4))
        return self.fc((self.last(grid) * grid).mean((2, 3)))


class Gated(nn.Module):
    """The value that bypasses the layer is compared with a number; NaN compares as the probe does, so it is not noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        gate = (first.amax((1, 2, 3)) > 10).float()[:, None]
        return self.fc(self.conv2(first).mean((2, 3))) * (1 + gate)


def test_after_uses_the_given_output_inside_a_pytorch_encoder_without_gradients():
    module, images = made(FastPath), pictures(2)
    given = output_of(module, "encoder.norm1", images) + pictures(1)[:, :1, :16, :8].reshape(1, 16, 8)
    with preserved(module), torch.no_grad():
        expected = logits_where(module, "encoder.norm1", images, given)
        split = split_of(module, "encoder.norm1")
        split.before(images)
        close(split.after(given), expected)


def test_after_of_before_matches_the_model_if_an_in_place_result_is_ignored():
    module, images = made(IgnoresReturn), pictures(2)
    with torch.no_grad():
        expected = module(images)
    with preserved(module):
        split = split_of(module, "conv2")
        close(split.after(split.before(images)), expected)


@pytest.mark.parametrize("path", ["conv1", "conv2"])
def test_a_model_that_writes_into_its_input_can_be_split(path):
    module, images = made(WritesInput), pictures(2)
    with torch.no_grad():
        expected = module(images.clone())
    with preserved(module):
        split = split_of(module, path)
        found = split.after(split.before(images))
    assert torch.equal(images, pictures(2))
    close(found, expected)


def test_rows_are_mapped_where_a_stub_returns_the_sequence_first():
    module, images, rows = made(SequenceFirst), pictures(2), torch.tensor([1, 0])
    with torch.no_grad():
        expected = module(images)[rows]
    with preserved(module):
        split = split_of(module, "last")
        close(split.after(split.before(images)[rows], rows), expected)


def test_a_layer_bypassed_by_a_gate_is_not_a_cut():
    module, images = made(Gated), 40 * pictures(2)
    with torch.no_grad():
        expected = module(images)
    with preserved(module):
        split = split_of(module, "conv2")
        close(split.after(split.before(images)), expected)


def test_a_model_may_refuse_nan_with_any_exception():
    module = made(FiniteOnly, FloatingPointError)
    with preserved(module):
        assert not split_of(module, "conv2").cut


def test_a_hook_that_changes_the_layers_output_is_applied_once():
    module, images = made(Plain), pictures(2)
    module.features[2].register_forward_hook(lambda _m, _a, output: output * 2)
    with torch.no_grad():
        expected = module(images)
    with preserved(module):
        split = split_of(module, "features.2")
        close(split.after(split.before(images)), expected)


def test_layers_are_found_in_inference_mode():
    model = attrlib.wrap_model(made(Plain), SIZE)
    with torch.inference_mode():
        assert "features.2" in model.layers
