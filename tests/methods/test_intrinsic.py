"""The built-in explanations of BagNet (patch logits) and B-cos (dynamic linear map), and where they are refused."""

import copy
from collections.abc import Callable

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support import nets
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluations import find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import Cancelled, MethodError
from attrlib.methods import METHODS, AttributionOptions, attribute, list_methods
from attrlib.models.architectures import BagNet, BcosResNet
from attrlib.specs import MethodSpec, ModelSpec, RunSpec, parse_protocols

CLASSES = 5
TARGETS = (3, 0, 4)
SIZES = {9: (19, 26), 17: (33, 25), 33: (48, 57)}
"""Height and width by receptive field, neither of which is a multiple of eight."""
BAG, BCOS = MethodSpec("BagNet"), MethodSpec("B-cos")


def lively(module: nn.Module) -> nn.Module:
    """Evaluation mode, with normalisation that is not the identity."""
    generator = torch.Generator().manual_seed(3)
    for own in module.modules():
        if isinstance(own, nn.BatchNorm2d):
            own.running_mean.copy_(torch.rand(own.num_features, generator=generator) - 0.5)
            own.running_var.copy_(torch.rand(own.num_features, generator=generator) + 0.5)
            own.weight.data.copy_(torch.rand(own.num_features, generator=generator) + 0.5)
            if own.bias is not None:
                own.bias.data.copy_(torch.rand(own.num_features, generator=generator) - 0.5)
    return module.eval()


def built(make: Callable[[], nn.Module], size: tuple[int, int], raw: bool = False) -> attrlib.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = lively(make())
    return attrlib.wrap_model(module, size, *([((0.0,) * 3), ((1.0,) * 3)] if raw else []))


def bagnet(field: int = 9) -> attrlib.Classifier:
    return built(lambda: BagNet(field, (2, 1, 1, 1), 4, CLASSES), SIZES[field])


def bcos() -> attrlib.Classifier:
    return built(lambda: BcosResNet((1, 1, 1, 1), 4, False, CLASSES), (32, 40), raw=True)


def images_for(model: attrlib.Classifier, count: int = 3) -> Tensor:
    found = torch.rand(count, 3, *model.input_size, generator=torch.Generator().manual_seed(2))
    return found if isinstance(model.module, BcosResNet) else 4 * found - 2


def trace(model: attrlib.Classifier) -> object:
    """The state that an explanation must not change."""
    module = model.module
    state = {key: (tensor._version, tensor.numpy().tobytes()) for key, tensor in module.state_dict().items()}
    modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()]
    return model.digest, state, modes, [(p.requires_grad, p.grad is None) for p in module.parameters()]


# BagNet ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [9, 17, 33])
def test_the_map_at_a_pixel_is_the_network_on_the_patch_around_it(field: int) -> None:
    model = bagnet(field)
    images, (height, width) = images_for(model), SIZES[field]
    maps = attribute(model, BAG, images, TARGETS).maps
    assert maps.shape == (3, 1, height, width)
    padded = F.pad(images, (field // 2,) * 4)
    generator = torch.Generator().manual_seed(field)
    corners = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    inner = [(int(torch.randint(height, (), generator=generator)), int(torch.randint(width, (), generator=generator))) for _ in range(20)]
    for y, x in corners + inner:
        with torch.no_grad():
            logits = model.module(padded[:, :, y : y + field, x : x + field])
        expected = logits[torch.arange(3), torch.tensor(TARGETS)]
        assert torch.allclose(maps[:, 0, y, x], expected, rtol=1e-3, atol=1e-4), (y, x)
    assert maps.std() > 1e-3


@pytest.mark.parametrize("field", [9, 17, 33])
def test_the_mean_over_positions_eight_apart_is_the_logit(field: int) -> None:
    model = bagnet(field)
    images, (height, width) = images_for(model), SIZES[field]
    maps = attribute(model, BAG, images, TARGETS).maps[:, 0].double()
    # The patches that lie in the image, the first of them in its corner.
    rows, columns = 1 + (height - field) // 8, 1 + (width - field) // 8
    inside = maps[:, field // 2 :: 8, field // 2 :: 8][:, :rows, :columns]
    assert inside[0].numel() > 1
    logits = model(images).detach()[torch.arange(3), torch.tensor(TARGETS)]
    assert torch.allclose(inside.mean((1, 2)).float(), logits, rtol=1e-3, atol=1e-4)


def test_the_map_of_an_image_of_another_size_is_that_of_its_patches() -> None:
    model = bagnet(9)
    images = torch.randn(1, 3, 40, 21, generator=torch.Generator().manual_seed(0))
    maps = attribute(model, BAG, images, [2]).maps
    assert maps.shape == (1, 1, 40, 21)
    padded = F.pad(images, (4,) * 4)
    for y, x in ((0, 0), (17, 5), (39, 20)):
        with torch.no_grad():
            assert float(maps[0, 0, y, x]) == pytest.approx(float(model.module(padded[:, :, y : y + 9, x : x + 9])[0, 2]), abs=1e-4)


def test_the_progress_callback_can_stop_it_between_images() -> None:
    model, seen = bagnet(9), []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 2:
            raise Cancelled("enough")

    before = trace(model)
    with pytest.raises(Cancelled):
        attribute(model, BAG, images_for(model), TARGETS, options=AttributionOptions(on_progress=stop))
    assert seen == [(0, 192), (64, 192)]
    assert trace(model) == before


# B-cos -------------------------------------------------------------------------------------------------------------------


def test_the_map_sums_to_the_logit_minus_its_constant_bias() -> None:
    model = bcos()
    images = images_for(model)
    maps = attribute(model, BCOS, images, TARGETS).maps
    logits = model(images).detach()[torch.arange(3), torch.tensor(TARGETS)]
    bias = -torch.log(torch.tensor(CLASSES - 1.0))
    assert torch.allclose(maps.double().sum((1, 2, 3)).float(), logits - bias, rtol=1e-3, atol=1e-5)
    assert (logits - bias).abs().max() > 1e-3


def test_the_map_is_the_linear_map_of_the_network_times_the_six_channels() -> None:
    """The linear map, computed independently: the network with every cosine held at its value, run on each basis vector."""
    model = built(lambda: BcosResNet((1, 1, 1, 1), 2, False, 3), (16, 16), raw=True)
    # In double precision: the maps are small compared with the constant bias, which is subtracted below.
    image, net = images_for(model, 1).double(), copy.deepcopy(model.module).double()
    factors: list[Tensor] = []
    convolutions = [m for m in net.modules() if type(m).__name__ == "BcosConv2d"]

    def linear(own: nn.Conv2d, x: Tensor) -> Tensor:
        unit = own.weight / own.weight.flatten(1).norm(dim=1)[:, None, None, None]
        return F.conv2d(x, unit, None, own.stride, own.padding)

    def remember(own: nn.Conv2d, args: tuple[Tensor, ...], out: Tensor) -> None:
        plain = linear(own, args[0])
        factors.append(torch.where(plain != 0, out / plain, torch.zeros_like(out)))

    handles = [own.register_forward_hook(remember) for own in convolutions]
    with torch.no_grad():
        encoded = torch.cat([image, 1 - image], 1)
        net.logits(encoded)
        for handle in handles:
            handle.remove()
        assert len(factors) == len(convolutions)
        held: list[int] = []

        def replay(own: nn.Conv2d, args: tuple[Tensor, ...], _out: Tensor) -> Tensor:
            held.append(1)
            return linear(own, args[0]) * factors[(len(held) - 1) % len(factors)]

        handles = [own.register_forward_hook(replay) for own in convolutions]
        basis = torch.eye(6 * 16 * 16).double().view(-1, 6, 16, 16)
        weights = net.logits(basis)[:, 1] - net.logits(torch.zeros_like(encoded))[0, 1]
        for handle in handles:
            handle.remove()
    expected = (weights.view(6, 16, 16) * encoded[0]).sum(0)
    found = attribute(model, BCOS, image.float(), [1]).maps[0, 0]
    assert torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


# Both --------------------------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize(("make", "spec"), [(bagnet, BAG), (bcos, BCOS)], ids=["BagNet", "B-cos"])


@BOTH
def test_batches_and_images_that_items_share_change_nothing(make: Callable[[], attrlib.Classifier], spec: MethodSpec) -> None:
    model = make()
    images = images_for(model, 4)
    whole = attribute(model, spec, images, (3, 0, 4, 1)).maps
    tolerance = 1e-5 * float(whole.abs().max())
    for size in (1, 3):
        assert torch.allclose(
            attribute(model, spec, images, (3, 0, 4, 1), options=AttributionOptions(batch_size=size)).maps, whole, rtol=1e-4, atol=tolerance
        )
    for k in range(4):
        assert torch.allclose(
            attribute(model, spec, images[k : k + 1], [(3, 0, 4, 1)[k]]).maps, whole[k : k + 1], rtol=1e-4, atol=tolerance
        )
    shared = attribute(model, spec, images, (3, 2, 0, 1), owners=[0, 0, 1, 3]).maps
    alone = attribute(model, spec, images[[0, 0, 1, 3]], (3, 2, 0, 1)).maps
    assert torch.allclose(shared, alone, rtol=1e-4, atol=tolerance)
    assert not torch.allclose(shared[0], shared[1], rtol=1e-2, atol=tolerance)


@BOTH
def test_without_targets_the_predicted_class_is_explained(make: Callable[[], attrlib.Classifier], spec: MethodSpec) -> None:
    model = make()
    images = images_for(model)
    predicted = model(images).argmax(1).tolist()
    found = attribute(model, spec, images)
    assert found.target == tuple(predicted)
    assert torch.allclose(found.maps, attribute(model, spec, images, predicted).maps)


@BOTH
def test_the_map_of_a_weighted_sum_of_logits_is_that_sum_of_maps(make: Callable[[], attrlib.Classifier], spec: MethodSpec) -> None:
    model = make()
    images = images_for(model, 1)
    one, other = (attribute(model, spec, images, [target]).maps for target in (3, 0))
    versus, negative = (
        attrlib.explain(model, images, f"{spec.name}:target={text}", target=3).maps for text in ("versus:other=0", "negative")
    )
    torch.testing.assert_close(versus, one - other, rtol=1e-4, atol=1e-5 * one.abs().max().item())
    torch.testing.assert_close(negative, -one, rtol=1e-4, atol=1e-5 * one.abs().max().item())
    with pytest.raises(MethodError, match=f"{spec.name} needs a target that is linear in the logits, which probability is not"):
        attrlib.explain(model, images, f"{spec.name}:target=probability", target=3)


@BOTH
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_bit_identical_afterwards(make: Callable[[], attrlib.Classifier], spec: MethodSpec, training: bool) -> None:
    model = make()
    model.module.train(training)
    images = images_for(model)
    copy, before = images.clone(), trace(model)
    maps = attribute(model, spec, images, TARGETS).maps
    assert trace(model) == before
    assert torch.equal(images, copy)
    assert not maps.requires_grad
    with torch.no_grad():
        assert torch.equal(attribute(model, spec, images, TARGETS).maps, maps), "in evaluation mode, and under no_grad"


@BOTH
def test_other_networks_are_refused_with_the_reason(make: Callable[[], attrlib.Classifier], spec: MethodSpec) -> None:
    plain = attrlib.wrap_model(nets.made(nets.Plain), nets.SIZE)
    other = bcos() if spec is BAG else bagnet()
    what = "a BagNet" if spec is BAG else "a B-cos network"
    for model in (plain, other):
        with pytest.raises(
            MethodError, match=f"{spec.name} is the built-in explanation of {what}, which {model.name} is not; choose another"
        ):
            attribute(model, spec, images_for(model))
    (info,) = (info for info in list_methods() if info.name == spec.name)
    assert info.needs == (what,)
    assert (info.family, info.default_layer, info.params, info.signed) == ("intrinsic", "Input", (), True)


@BOTH
@pytest.mark.parametrize("layer", ["layer1", "layer3", "Final", "Middle"])
def test_other_layers_are_refused_with_the_reason(make: Callable[[], attrlib.Classifier], spec: MethodSpec, layer: str) -> None:
    model = make()
    with pytest.raises(MethodError, match=f"{spec.name} explains the whole network at its input; leave out @{layer}"):
        attribute(model, MethodSpec(spec.name, layer), images_for(model))
    attribute(model, MethodSpec(spec.name, "Input"), images_for(model, 1))


@BOTH
def test_a_run_skips_them_in_difull_and_dipart_and_on_other_networks(make: Callable[[], attrlib.Classifier], spec: MethodSpec) -> None:
    net = (lambda: BagNet(9, (2, 1, 1, 1), 4, CLASSES)) if spec is BAG else (lambda: BcosResNet((1, 1, 1, 1), 4, False, CLASSES))
    # Large enough for a last layer with a map.
    model = built(net, (64, 64) if spec is BAG else (128, 128), raw=spec is BCOS)
    others = "B-cos" if spec is BAG else "BagNet"
    protocols = parse_protocols("gridpg,difull,dipart,sds")
    run = RunSpec(ModelSpec("wrapped"), "photos", protocols, (spec, MethodSpec("IxG"), MethodSpec(others)))
    groups, refused = find_evaluations(run, type("Data", (), {"offers": ()})(), Evaluator(model, InMemoryCache()))
    offered = {(part.protocol_spec.name, part.method_spec.name) for group in groups for part in group.evaluations}
    assert offered >= {("gridpg", spec.name), ("sds", spec.name), ("gridpg", "IxG"), ("difull", "IxG"), ("sds", "IxG")}
    reasons = {(protocol.name, method.name): why for protocol, method, why in refused}
    for setting in ("difull", "dipart"):
        assert "use GridPG rather than DiFull or DiPart" in reasons[setting, spec.name] or "not defined" in reasons[setting, spec.name]
    assert "use GridPG rather than DiFull or DiPart" in reasons["difull", spec.name]
    assert {(protocol.name, others) for protocol in protocols} <= set(reasons)
    assert all(
        f"which {model.name} is not" in why for (setting, method), why in reasons.items() if method == others and setting != "dipart"
    )


def test_they_are_registered_with_their_papers() -> None:
    assert METHODS["BagNet"].paper.url.endswith("1904.00760")
    assert METHODS["B-cos"].paper.url.endswith("2205.10268")
