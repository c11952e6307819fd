import argparse
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from support.nets import made, pictures
from torch import Tensor, nn

from attrlib.models.architectures import (
    ARCHITECTURES,
    PUBLISHED,
    VGG,
    BagNet,
    BcosResNet,
    FixupResNet,
    ResNet,
    XResNet,
    dynamic_weights,
    linearised,
    patch_logits,
)
from attrlib.models.architectures.bcos import BcosConv2d, UncentredBatchNorm2d
from attrlib.models.architectures.catalogue import SMALL
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.loading.prefixes import below
from attrlib.models.loading.state_dicts import load_state

FACTS: dict[str, dict] = json.loads(Path(__file__).with_name("published.json").read_text())
REFERENCE = Path(__file__).resolve().parents[3] / "shared/reference/checkpoints"
CLASSES = 20


def on_meta(build: Callable[[int], nn.Module], classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return build(classes)


def keys(module: nn.Module) -> list[list]:
    return [[k, list(v.shape)] for k, v in module.state_dict().items()]


def digest(found: list[list]) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """As if trained: nothing is zero, nor the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                fan = tensor[0].numel() if tensor.ndim > 1 else 50
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5 + (tensor.ndim == 1 and "weight" in name))
    return module.eval()


def snapshot(module: nn.Module) -> list:
    values = {k: v.clone() for k, v in module.state_dict().items()}
    return [values, [m.training for m in module.modules()], [p.requires_grad for p in module.parameters()], repr(module)]


def assert_untouched(module: nn.Module, before: list) -> None:
    after = snapshot(module)
    assert after[1:] == before[1:]
    assert all(torch.equal(v, before[0][k]) for k, v in after[0].items())
    assert all(p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


# Published checkpoints.


def known_weights(key: str, like: Tensor, factor: float) -> Tensor:
    """Reproducible weights, by the rules of `shared/reference/checkpoints/README.md`."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    if key.endswith("running_var"):
        return (torch.rand(like.shape, generator=generator) + 0.5) * factor
    if key.endswith("running_mean"):
        return torch.randn(like.shape, generator=generator) * 0.1
    if like.ndim >= 2:
        return torch.randn(like.shape, generator=generator) * math.sqrt(2 / math.prod(like.shape[1:]))
    if "bias" in key.rpartition(".")[2]:
        return torch.randn(like.shape, generator=generator) * 0.1
    return torch.rand(like.shape, generator=generator) * 0.5 + 0.75


@pytest.mark.parametrize("name", FACTS)
def test_a_published_checkpoint_fits_strictly_and_gives_its_logits(name, tmp_path):
    facts, checkpoint = FACTS[name], PUBLISHED[name]
    module = on_meta(checkpoint.build)
    assert len(keys(module)) == facts["keys"]
    assert digest(keys(module)) == facts["digest"]

    prefix = "module.model." if name.startswith("bcos") else "module."
    state = {prefix + k: known_weights(k, v, facts["running_var_factor"]) for k, v in module.state_dict().items()}
    content = {"epoch": 9, "state_dict": state, "best_acc1": torch.tensor(70.0), "optimizer": {"state": {}}, "scheduler": {"gamma": 0.1}}
    file = tmp_path / "published.pth.tar"
    torch.save({**content, "args": argparse.Namespace(lr=0.001, data_dir="/datasets/imagenet")}, file)
    del state, content
    loaded = read_checkpoint(file).state
    file.unlink()
    module = module.to_empty(device="cpu").eval()
    load_state(module, below(loaded, prefix), file.name)

    draw = torch.rand if name.startswith("bcos") else torch.randn
    with torch.no_grad():
        logits = module(draw(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))[0]
    expected = torch.tensor(facts["logits"])
    assert float(logits.norm()) == pytest.approx(facts["norm"], rel=1e-4)
    assert float((logits[:16] - expected).norm() / expected.norm()) < 1e-4
    torch.testing.assert_close(logits[:16], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_check_values_match_the_reference():
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference {REFERENCE} is not here")
    for file in sorted(REFERENCE.glob("*.json")):
        known = json.loads(file.read_text())
        facts = FACTS[known["model"]]
        assert facts["digest"] == digest(known["keys"])
        assert facts["logits"] == known["logits_first_16"]
        assert facts["norm"] == known["logits_l2"]
        assert facts["running_var_factor"] == known.get("running_var_factor", 1.0)
    assert len(FACTS) == len(list(REFERENCE.glob("*.json"))) == 11


def test_all_sixteen_published_checkpoints_are_listed():
    assert len(PUBLISHED) == len({c.url for c in PUBLISHED.values()}) == 16
    assert PUBLISHED["x_resnet50"].url.endswith("/xresnet50_imagenet1000_lr0.001_epochs30_step10_checkpoint_best.pth.tar")
    assert all(c.preprocessing.size == (224, 224) and c.preprocessing.crop == 224 / 256 for c in PUBLISHED.values())
    means = {n: c.preprocessing.mean[0] for n, c in PUBLISHED.items()}
    assert {n: m for n, m in means.items() if m != 0.485} == {"bcos_resnet50": 0.0, "vit_base_patch16_224": 0.5}


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(FACTS)))
def test_published_architectures_without_check_values_build(name):
    heads = [m for m in on_meta(PUBLISHED[name].build, 7).modules() if isinstance(m, nn.Linear)]
    assert heads[-1].out_features == 7


# The family.


def test_the_names_of_the_catalogue_match_its_architectures():
    assert set(FACTS) & set(ARCHITECTURES) == {"bagnet33", "fixup_resnet50", "x_resnet50", "x_vgg16", "bcos_resnet50"}
    for name, architecture in ARCHITECTURES.items():
        assert architecture.summary
        assert architecture.paper.url.startswith("https://")
        assert architecture.preprocessing.size == ((128, 128) if name.startswith("small") else (224, 224))


# Path and (channels, height, width) of Middle and of Final.
STAGES_16 = (("layer2", (32, 16, 16)), ("layer4", (64, 4, 4)))
LAYERS: dict[str, tuple] = {
    "small_resnet10_w16": STAGES_16,
    "small_resnet18_w16": STAGES_16,
    "small_resnet26_w16": STAGES_16,
    "small_resnet18_w10": (("layer2", (20, 16, 16)), ("layer4", (40, 4, 4))),
    "small_fixup_resnet18_w16": STAGES_16,
    "small_x_resnet18_w16": STAGES_16,
    "small_vgg11_w16": (("features.12", (64, 16, 16)), ("features.19", (64, 8, 8))),
    "small_vgg11_bn_w16": (("features.17", (64, 16, 16)), ("features.27", (64, 8, 8))),
    "small_x_vgg11_w16": (("features.12", (64, 16, 16)), ("features.19", (64, 8, 8))),
    "small_bagnet33_w16": (("layer3", (256, 14, 14)), ("layer4", (256, 12, 12))),
    "small_bagnet17_w16": (("layer3", (256, 14, 14)), ("layer4", (256, 14, 14))),
    "small_bcos_resnet18_w16": (("layer2", (32, 16, 16)), ("layer4", (64, 4, 4))),
    "small_vit6_w64": (("blocks.2", (64, 8, 8)), ("blocks.4", (64, 8, 8))),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_architecture_learns_and_has_its_layers(name):
    architecture = ARCHITECTURES[name]
    module = made(architecture.build, CLASSES).train()
    assert 0.1e6 <= sum(p.numel() for p in module.parameters()) <= 0.51e6

    images = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    optimiser = torch.optim.SGD(module.parameters(), 0.01)

    def loss() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return F.cross_entropy(module(images), labels)

    before = loss()
    before.backward()
    optimiser.step()
    assert loss() < before

    model = attrlib.wrap_model(module, 128, architecture.preprocessing.mean, architecture.preprocessing.std)
    assert model(images).shape == (4, CLASSES)
    if name in LAYERS:
        assert tuple((model.layers[n].path, model.layers[n].shape) for n in ("Middle", "Final")) == LAYERS[name]
    else:
        assert {"layer3", "layer4"} <= model.layers.keys()


def widths_and_depth(name: str) -> tuple[int, int]:
    depth, width = re.fullmatch(r"small_[a-z_]*?(\d+)(?:_bn)?_w(\d+)", name).groups()
    return int(width), int(depth)


@pytest.mark.parametrize("name", [n for n in SMALL if "bagnet" not in n])
def test_the_name_of_a_small_architecture_says_its_depth_and_width(name):
    width, depth = widths_and_depth(name)
    module = on_meta(ARCHITECTURES[name].build)
    if "vit" in name:
        assert (len(module.blocks), module.embed_dim) == (depth, width)
        return
    convolutions = [m for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    assert (len(convolutions) + len(linear), convolutions[0].out_channels) == (depth, width)


@pytest.mark.parametrize("build", [ResNet, VGG, lambda **o: VGG(batch_norm=True, **o)])
def test_at_published_size_the_keys_match_torchvision(build):
    theirs = {ResNet: "resnet18", VGG: "vgg16"}.get(build, "vgg16_bn")
    with torch.device("meta"):
        assert keys(build(num_classes=7)) == keys(torchvision.models.get_model(theirs, num_classes=7))


def test_resnet_matches_torchvision():
    own, theirs = made(ResNet), torchvision.models.resnet18().eval()
    theirs.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert torch.equal(own(pictures(1, 64)), theirs(pictures(1, 64)))


# Fixup and X networks.


@pytest.mark.parametrize("build", [FixupResNet, XResNet])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_blocks_of_fixup_start_as_identity(build, bottleneck):
    module = made(build, (2, 1, 1, 3), 32, bottleneck)
    x = pictures(1, 8).repeat(1, 400, 1, 1)
    for block in module.blocks:
        inputs = x[:, : block.conv1.in_channels]
        shortcut = inputs if block.downsample is None else block.downsample(inputs)
        torch.testing.assert_close(block(inputs), shortcut.relu())
        he = math.sqrt(2 / (block.conv1.out_channels * block.conv1.kernel_size[0] ** 2))
        assert float(block.conv1.weight.detach().std()) == pytest.approx(he * 7 ** (-0.25 if bottleneck else -0.5), rel=0.1)
    assert not module(pictures(1, 64)).any()


X_NETS = {
    "X-ResNet": lambda: trained(XResNet((1, 1, 1, 1), 8, False, 5)),
    "X-ResNet with bottlenecks": lambda: trained(XResNet((1, 1, 1, 1), 4, True, 5)),
    "X-VGG": lambda: trained(VGG((1, 1, 1, 1, 1), 4, 16, 2, bias=False, num_classes=5)),
}
OTHERS = {
    "Fixup": lambda: trained(FixupResNet((1, 1, 1, 1), 8, False, 5)),
    "VGG": lambda: trained(VGG((1, 1, 1, 1, 1), 4, 16, 2, num_classes=5)),
}


@pytest.mark.parametrize("name", X_NETS)
def test_x_networks_are_homogeneous(name):
    module, images = X_NETS[name]().double(), pictures(3, 64).double()
    with torch.no_grad():
        logits = module(images)
        for factor in (0.0, 0.3, 1.0, 7.0):
            torch.testing.assert_close(module(factor * images), factor * logits, rtol=1e-9, atol=1e-12)
    assert float(logits.std()) > 1e-3
    assert not [n for n, _ in module.named_parameters() if not n.endswith("weight")]


def ixg_and_ig(module: nn.Module) -> tuple[Tensor, Tensor]:
    model, images = attrlib.wrap_model(module, 64), pictures(2, 64)
    return tuple(torch.as_tensor(attrlib.explain(model, images, method, target=1).maps) for method in ("IxG", "IG:steps=5"))


@pytest.mark.parametrize("name", X_NETS)
def test_input_x_gradient_is_integrated_gradients_on_x_networks(name):
    ixg, ig = ixg_and_ig(X_NETS[name]())
    torch.testing.assert_close(ixg, ig, rtol=1e-3, atol=1e-4 * float(ig.abs().max()))


@pytest.mark.parametrize("name", OTHERS)
def test_input_x_gradient_is_not_integrated_gradients_with_biases(name):
    ixg, ig = ixg_and_ig(OTHERS[name]())
    assert float((ixg - ig).norm() / ig.norm()) > 0.05


# BagNet.


def bagnet(receptive_field: int) -> BagNet:
    return trained(BagNet(receptive_field, (2, 1, 1, 2), 4, 6))


@pytest.mark.parametrize("receptive_field", [9, 17, 33])
def test_the_dense_map_is_the_logits_patch_by_patch(receptive_field):
    module, images, reach = bagnet(receptive_field), pictures(2, 13, 22), receptive_field // 2
    patches = F.unfold(F.pad(images, [reach] * 4), receptive_field).transpose(1, 2).reshape(-1, 3, receptive_field, receptive_field)
    with torch.no_grad():
        expected = module(patches).view(2, 13, 22, 6).permute(0, 3, 1, 2)
    found = patch_logits(module, images)
    assert found.shape == (2, 6, 13, 22)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std(dim=(2, 3)).min()) > 0.01


@pytest.mark.parametrize("receptive_field", [9, 17, 33])
def test_logits_are_the_mean_of_patches_eight_pixels_apart(receptive_field):
    module, images, reach = bagnet(receptive_field), pictures(2, 75, 64), receptive_field // 2
    inside = patch_logits(module, images)[:, :, reach : 75 - reach : 8, reach : 64 - reach : 8]
    with torch.no_grad():
        torch.testing.assert_close(inside.mean((2, 3)), module(images), rtol=1e-4, atol=1e-4)


def test_a_patch_sees_nothing_beyond_its_receptive_field():
    module, images = bagnet(17), pictures(1, 40)
    changed = images.clone()
    changed[:, :, 20, 20] += 5
    differs = (patch_logits(module, images) != patch_logits(module, changed)).any(1)[0]
    reached = torch.zeros(40, 40, dtype=torch.bool)
    reached[12:29, 12:29] = True
    assert not differs[~reached].any()
    assert differs[reached].float().mean() > 0.9


def test_dense_maps_of_chosen_classes_and_in_batches_are_the_same():
    module, images = bagnet(9), pictures(3, 16)
    every = patch_logits(module, images)
    targets = torch.tensor([4, 0, 5])
    chosen = patch_logits(module, images, targets, batch_size=2)
    torch.testing.assert_close(chosen, every[torch.arange(3), targets][:, None], rtol=1e-4, atol=1e-4)
    pairs = torch.tensor([[1, 2], [0, 0], [5, 3]])
    chosen = patch_logits(module, images, pairs, batch_size=1)
    torch.testing.assert_close(chosen, torch.stack([e[p] for e, p in zip(every, pairs, strict=True)]), rtol=1e-4, atol=1e-4)


def test_dense_maps_leave_the_model_unchanged():
    module, images = bagnet(9), pictures(2, 16)
    expected = patch_logits(module, images)
    module.train()
    before = snapshot(module)
    assert torch.equal(patch_logits(module, images), expected)
    assert_untouched(module, before)


# B-cos.


def bcos(bottleneck: bool = False) -> BcosResNet:
    return trained(BcosResNet((1, 2, 1, 1), 8, bottleneck, 6))


def test_a_bcos_convolution_scales_by_the_cosine():
    torch.manual_seed(0)
    layer, x = BcosConv2d(3, 4, 3, 2), torch.randn(2, 3, 9, 8)
    patches = F.unfold(x, 3, padding=1, stride=2)
    weights = layer.weight.flatten(1)
    cosines = torch.stack([F.cosine_similarity(patches, w[None, :, None], dim=1) for w in weights], dim=1)
    projections = torch.einsum("kc,bcn->bkn", weights / weights.norm(dim=1, keepdim=True), patches)
    torch.testing.assert_close(layer(x), (cosines.abs() * projections).view(2, 4, 5, 4), rtol=1e-4, atol=1e-5)


def test_a_bcos_convolution_does_not_depend_on_the_length_of_its_weights():
    layer, x = BcosConv2d(3, 4, 1), pictures(2, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 2.0, 30.0, 400.0])[:, None, None, None])
    torch.testing.assert_close(layer(x), before)


def test_uncentred_batch_normalisation_divides_and_keeps_the_mean():
    layer, x = UncentredBatchNorm2d(3), pictures(4, 6) * 3 + 5
    torch.testing.assert_close(layer(x), x / (x.var((0, 2, 3), correction=0) + 1e-5).sqrt()[:, None, None])
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))
    layer.eval()
    torch.testing.assert_close(layer(2 * x), 2 * layer(x))
    assert not layer(torch.zeros_like(x)).any()


def of(targets):
    """What is explained: the logits of these classes."""
    return lambda logits: logits[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_dynamic_weights_are_the_linear_map_of_the_network(bottleneck):
    module = bcos(bottleneck).double()
    images = torch.rand(3, 3, 40, 33, generator=torch.Generator().manual_seed(0)).double()
    targets = torch.tensor([5, 0, 2])
    weights = dynamic_weights(module, images, of(targets))
    assert weights.shape == (3, 6, 40, 33)
    with torch.no_grad():
        logits = module(images)
    contributions = (weights * module.encode(images)).sum((1, 2, 3))
    torch.testing.assert_close(contributions, logits[torch.arange(3), targets] - module.logit_bias, rtol=1e-12, atol=1e-14)
    assert module.logit_bias == pytest.approx(math.log(1 / 5))
    assert float(contributions.abs().min()) > 1e-6


def test_dynamic_weights_are_not_the_gradient():
    module, images = bcos(), torch.rand(1, 3, 32, 32)
    encoded = module.encode(images).requires_grad_()
    (gradient,) = torch.autograd.grad(module.logits(encoded)[0, 1], encoded)
    weights = dynamic_weights(module, images, of(torch.tensor([1])))
    assert float((gradient - weights).norm() / weights.norm()) > 0.5


def test_dynamic_weights_leave_the_model_unchanged():
    module, images, targets = bcos(), torch.rand(2, 3, 32, 32), torch.tensor([1, 4])
    expected = dynamic_weights(module, images, of(targets))
    module.train()
    before = snapshot(module)
    assert torch.equal(dynamic_weights(module, images, of(targets)), expected)
    assert_untouched(module, before)


def test_the_linearised_copy_shares_weights_and_computes_the_same():
    module, images = bcos(), torch.rand(2, 3, 32, 32)
    twin = linearised(module)
    assert [id(t) for t in (*twin.parameters(), *twin.buffers())] == [id(t) for t in (*module.parameters(), *module.buffers())]
    with torch.no_grad():
        assert torch.equal(twin(images), module(images))
    assert not any(getattr(m, "detached", False) for m in module.modules())


def test_gradient_methods_reach_the_image_of_a_bcos_network():
    module, images = bcos(), torch.rand(2, 3, 32, 32)
    model = attrlib.wrap_model(linearised(module), 32, (0.0,) * 3, (1.0,) * 3)
    targets = torch.tensor([1, 4])
    weights = dynamic_weights(module, images, of(targets))
    expected = (images * (weights[:, :3] - weights[:, 3:])).sum(1, keepdim=True)
    found = attrlib.explain(model, images, "IxG", target=targets.tolist()).maps
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
