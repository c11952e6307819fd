"""Checkpoints as other programs write them: the network that is loaded gives the logits of the network that was saved."""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import json

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from support.numbers import SEED
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from attrlib.errors import ModelError

VIT, RESNET, TINY = "timm:test_vit", "torchvision:resnet18", "timm:test_resnet"
SWIN = "timm:swin_tiny_patch4_window7_224?embed_dim=24"
BEIT = "timm:beit_base_patch16_224?depth=2&embed_dim=24&num_heads=2"
State = dict[str, Tensor]


def shaken(network: nn.Module) -> nn.Module:
    """Return the network with other weights and statistics than its constructor's, so that none can be swapped unnoticed."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer += 0.3 * torch.rand(buffer.shape, generator=generator)
    return network.eval()


def of_timm(name: str, **options: Any) -> nn.Module:
    return shaken(timm.create_model(name, **{"num_classes": 4, **options}))


def of_torchvision(name: str, **options: Any) -> nn.Module:
    return shaken(torchvision.models.get_model(name, **{"num_classes": 4, **options}))


swin = partial(of_timm, "swin_tiny_patch4_window7_224", embed_dim=24)
beit = partial(of_timm, "beit_base_patch16_224", depth=2, embed_dim=24, num_heads=2)
vit, resnet, tiny = partial(of_timm, "test_vit"), partial(of_torchvision, "resnet18"), partial(of_timm, "test_resnet")
deit = partial(of_timm, "deit_tiny_distilled_patch16_224", embed_dim=24, num_heads=2, depth=2)


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def renamed(state: State, *rules: tuple[str, str]) -> State:
    result = OrderedDict()
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


def with_head(network: nn.Module, place: str, head: nn.Module) -> nn.Module:
    network.set_submodule(place, head)
    return shaken(network)


class Wrapper(nn.Module):
    """Features of a network without its head, and a head."""

    def __init__(self, backbone: nn.Module, width: int, **parts: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 4)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).flatten(1))


class Pools(nn.Module):
    """The pooling of fastai's heads: the maximum of each channel, then its mean."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([nn.functional.adaptive_max_pool2d(maps, 1), nn.functional.adaptive_avg_pool2d(maps, 1)], 1)


def fastai(body: nn.Module, width: int) -> nn.Module:
    head = [Pools(), nn.Flatten(), nn.BatchNorm1d(2 * width), nn.Dropout(0.25), nn.Linear(2 * width, 32, bias=False), nn.ReLU(inplace=True)]
    return shaken(nn.Sequential(body, nn.Sequential(*head, nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 4, bias=False))))


def children(network: nn.Module, last: int) -> nn.Module:
    return nn.Sequential(*list(network.children())[:last])


def averaged(network: nn.Module) -> State:
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def compiled_inside(network: nn.Module) -> State:
    return renamed(network.state_dict(), (r"^layer1\.", "layer1._orig_mod."))


def halved(network: nn.Module, kind: torch.dtype) -> State:
    """Round the weights of the network, too, so that its logits are those of the file."""
    network.to(kind).float()
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in network.state_dict().items()}


def changed(network: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    change(network)
    return network.eval()


def facebook_convnext(network: nn.Module) -> State:
    """Write timm's ConvNeXt as the authors' code names it."""
    return renamed(
        network.state_dict(),
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    )


def microsoft_swin(network: nn.Module) -> State:
    """Write timm's Swin as the authors' code names it, with the buffers that it stores."""
    state = renamed(
        network.state_dict(),
        (r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample"),
        (r"^head\.fc\.", "head."),
    )
    buffers = {key: value for key, value in network.named_buffers() if "relative_position_index" in key}
    return {**state, **buffers}


def flat_patches(network: nn.Module) -> State:
    """Write a ViT with the linear patch embedding of the first ones in timm."""
    state = network.state_dict()
    return {**state, "patch_embed.proj.weight": state["patch_embed.proj.weight"].flatten(1)}


@dataclass
class Layout:
    """A checkpoint: the name to load it by, the network that was saved, its file, and what the notes have to say."""

    name: str
    network: Callable[[], nn.Module]
    state: Callable[[nn.Module], State] = lambda network: network.state_dict()
    says: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    size: int | tuple[int, int] | None = None


LAYOUTS = {
    "plain": Layout(TINY, tiny, says="read from the checkpoint: num_classes=4"),
    "DataParallel": Layout(TINY, tiny, lambda n: prefixed(n.state_dict(), "module.")),
    "compiled": Layout(TINY, tiny, lambda n: prefixed(n.state_dict(), "_orig_mod.")),
    "compiled, parallel": Layout(TINY, tiny, lambda n: prefixed(n.state_dict(), "module._orig_mod.")),
    "one compiled part": Layout(RESNET, resnet, compiled_inside),
    "Lightning": Layout(TINY, tiny, lambda n: {**prefixed(n.state_dict(), "model."), "train_acc.tp": torch.zeros(4)}, "train_acc.tp (1 key"),
    "Lightning, deeper": Layout(TINY, tiny, lambda n: {**prefixed(n.state_dict(), "model.net."), "loss.weight": torch.ones(4)}, "loss.weight"),
    "averaged": Layout(TINY, tiny, averaged, "n_averaged (1 key beside the model)"),
    "twice the same": Layout(TINY, tiny, lambda n: {**prefixed(n.state_dict(), "a."), **prefixed(n.state_dict(), "b.")}, "left out: b."),
    "profiled": Layout(TINY, tiny, lambda n: {**n.state_dict(), "layer1.0.total_ops": torch.zeros(1)}, "layer1.0.total_ops"),
    "ViT of 96 px": Layout(VIT, partial(vit, img_size=96), says="img_size=96, num_classes=4", size=96),
    "ViT of 96 px, asked for": Layout(VIT, partial(vit, img_size=96), load={"input_size": 96}, size=96),
    "ViT of 96 x 128 px": Layout(VIT, partial(vit, img_size=(96, 128)), says="img_size=96x128", load={"input_size": (96, 128)}, size=(96, 128)),
    "ViT with mean pooling": Layout(VIT, partial(vit, global_pool="avg"), says="global_pool=avg"),
    "ViT without class token": Layout(VIT, partial(vit, class_token=False, global_pool="avg", img_size=96), says="class_token=false", size=96),
    "ViT with registers instead of a class token": Layout(
        VIT, partial(vit, reg_tokens=2, class_token=False, global_pool="avg", img_size=96), says="reg_tokens=2", size=96
    ),
    "ViT with registers": Layout(VIT, partial(vit, reg_tokens=4, img_size=96), says="reg_tokens=4", size=96),
    "ViT without a place for the class": Layout(VIT, partial(vit, no_embed_class=True), says="no_embed_class=true"),
    "ViT with layer scale": Layout(VIT, partial(vit, init_values=0.1), says="init_values=1e-05"),
    "grey ViT": Layout(VIT, partial(vit, in_chans=1), says="in_chans=1"),
    "distilled DeiT of 96 px": Layout("timm:deit_tiny_distilled_patch16_224?depth=2&embed_dim=24&num_heads=2", partial(deit, img_size=96), says="img_size=96", size=96),
    "Swin with a window of 4": Layout(SWIN, partial(swin, img_size=128, window_size=4), says="window_size=4", load={"input_size": 128}, size=128),
    "Swin of 96 px": Layout(SWIN, partial(swin, img_size=96), says="img_size=96", size=96),
    "BEiT of 96 px": Layout(BEIT, partial(beit, img_size=96), says="img_size=96", size=96),
    "torchvision's ViT of 96 px": Layout("torchvision:vit_b_16", partial(of_torchvision, "vit_b_16", image_size=96), says="image_size=96", size=96),
    "grey ResNet": Layout(TINY, partial(tiny, in_chans=1), says="in_chans=1"),
    "12 channels": Layout("timm:test_efficientnet", partial(of_timm, "test_efficientnet", in_chans=12), says="in_chans=12"),
    "catavgmax": Layout(TINY, partial(tiny, global_pool="catavgmax"), says="global_pool=catavgmax"),
    "GoogLeNet without auxiliary heads": Layout("torchvision:googlenet", partial(of_torchvision, "googlenet", aux_logits=False, init_weights=False), says="aux_logits=false"),
    "GoogLeNet with them": Layout("torchvision:googlenet", partial(of_torchvision, "googlenet", aux_logits=True, init_weights=False)),
    "Inception without": Layout("torchvision:inception_v3", partial(of_torchvision, "inception_v3", aux_logits=False, init_weights=False), says="aux_logits=false"),
    "timm's Inception with": Layout(
        "timm:inception_v3", partial(of_timm, "inception_v3"), lambda n: {**n.state_dict(), "AuxLogits.fc.weight": torch.zeros(4, 768)}, "AuxLogits.fc.weight"
    ),
    "old DenseNet": Layout(
        "torchvision:densenet121", partial(of_torchvision, "densenet121"), lambda n: renamed(n.state_dict(), (r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.")), "renamed"
    ),
    "old ViT of torchvision": Layout(
        "torchvision:vit_b_32",
        partial(of_torchvision, "vit_b_32", image_size=64),
        lambda n: renamed(n.state_dict(), (r"(\.mlp)\.0\.", r"\1.linear_1."), (r"(\.mlp)\.3\.", r"\1.linear_2.")),
        "renamed",
        size=64,
    ),
    "the authors' ConvNeXt": Layout("timm:test_convnext", partial(of_timm, "test_convnext"), facebook_convnext, "renamed"),
    "the authors' Swin": Layout(SWIN, swin, microsoft_swin, "renamed"),
    "the authors' Swin of 96 px": Layout(SWIN, partial(swin, img_size=96), microsoft_swin, "img_size=96", size=96),
    "ViT with flat patches": Layout(VIT, vit, flat_patches, "renamed"),
    "dropout and linear": Layout(RESNET, lambda: with_head(resnet(), "fc", nn.Sequential(nn.Dropout(), nn.Linear(512, 4)))),
    "two layers": Layout(
        RESNET,
        lambda: with_head(resnet(), "fc", nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4))),
        says="the head 'fc' was rebuilt from its keys: assumed ReLU between its layers, and nothing after the last",
    ),
    "named layers": Layout(
        RESNET, lambda: with_head(resnet(), "fc", nn.Sequential(OrderedDict(a=nn.Linear(512, 8), act=nn.ReLU(), b=nn.Linear(8, 4)))), says="assumed ReLU"
    ),
    "two layers with BatchNorm": Layout(
        RESNET, lambda: with_head(resnet(), "fc", nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))), says="assumed ReLU"
    ),
    "PReLU and LayerNorm": Layout(
        RESNET, lambda: with_head(resnet(), "fc", nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 8), nn.PReLU(), nn.Linear(8, 4)))
    ),
    "one layer for the classifier": Layout(
        "torchvision:mobilenet_v3_small", lambda: with_head(of_torchvision("mobilenet_v3_small"), "classifier", nn.Linear(576, 4))
    ),
    "timm head": Layout(VIT, lambda: with_head(vit(), "head", nn.Sequential(nn.Dropout(), nn.Linear(64, 4)))),
    "backbone and head": Layout(RESNET, lambda: shaken(Wrapper(resnet(num_classes=4), 4)) and backbone(), says="assembled from backbone.* and head.*"),
    "backbone and head in Lightning": Layout(RESNET, lambda: backbone(), lambda n: prefixed(n.state_dict(), "model."), "model.backbone.* and model.head.*"),
    "numbered children and head": Layout(RESNET, lambda: shaken(Wrapper(children(resnet(), -1), 512)), says="assembled from backbone.*"),
    "fastai": Layout(RESNET, lambda: fastai(children(resnet(), -2), 512), says="assembled from 0.* and 1.*"),
    "fastai, densenet": Layout("torchvision:densenet121", lambda: fastai(nn.Sequential(of_torchvision("densenet121").features), 1024), says="assembled"),
    "fastai, timm": Layout("timm:resnet18", lambda: fastai(children(of_timm("resnet18"), -2), 512), says="assembled from 0.* and 1.*"),
    "fastai, TimmBody": Layout(
        "timm:test_efficientnet",
        lambda: fastai(nn.Sequential(OrderedDict(model=of_timm("test_efficientnet", num_classes=0, global_pool=""))), 256),
        says="assembled from 0.model.*",
    ),
    "half": Layout(TINY, tiny, partial(halved, kind=torch.float16), "float16 weights to float32"),
    "bfloat16": Layout(TINY, tiny, partial(halved, kind=torch.bfloat16), "bfloat16 weights to float32"),
    "double": Layout(TINY, tiny, lambda n: {k: v.double() if v.is_floating_point() else v for k, v in n.state_dict().items()}, "float64 weights"),
    "weight norm": Layout(RESNET, lambda: changed(resnet(), lambda n: parametrizations.weight_norm(n.layer1[0].conv1)), says="weight norm of 1"),
    "old weight norm": Layout(RESNET, lambda: changed(resnet(), lambda n: torch.nn.utils.weight_norm(n.fc, dim=1)), says="weight norm of 1"),
    "weight norm over all": Layout(RESNET, lambda: changed(resnet(), lambda n: torch.nn.utils.weight_norm(n.fc, dim=None)), says="weight norm"),
    "spectral norm": Layout(RESNET, lambda: changed(resnet(), lambda n: parametrizations.spectral_norm(n.layer2[0].conv1)), says="spectral norm"),
    "old spectral norm": Layout(RESNET, lambda: changed(resnet(), lambda n: torch.nn.utils.spectral_norm(n.layer2[0].conv1)), says="spectral norm"),
    "pruned": Layout(RESNET, lambda: changed(resnet(), lambda n: prune.l1_unstructured(n.layer1[0].conv1, "weight", 0.5)), says="pruning"),
}  # fmt: skip


def backbone() -> nn.Module:
    return shaken(Wrapper(with_head(resnet(), "fc", nn.Identity()), 512))


@pytest.mark.parametrize("label", LAYOUTS)
def test_the_loaded_network_gives_the_logits_of_the_saved_one(label: str, tmp_path: Path) -> None:
    layout = LAYOUTS[label]
    network = layout.network()
    torch.save(layout.state(network), tmp_path / "w.pth")
    model = attrlib.load_model(layout.name, "cpu", checkpoint=tmp_path / "w.pth", **layout.load)
    images = torch.randn(2, *model.input_shape, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=1e-3, atol=1e-4)
    assert layout.says in " | ".join(model.notes)
    if layout.size is not None:
        assert model.input_size == (layout.size if isinstance(layout.size, tuple) else (layout.size, layout.size))


def test_safetensors_and_sharded_checkpoints_are_read_alike(tmp_path: Path) -> None:
    network = tiny()
    state = prefixed(network.state_dict(), "model.")
    names = list(state)
    parts = {"w-00001-of-00002.safetensors": names[::2], "w-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        safetensors.torch.save_file({key: state[key] for key in keys}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(index))
    safetensors.torch.save_file(state, tmp_path / "whole.safetensors")
    digests = {attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / f).digest for f in ("w.safetensors.index.json", "whole.safetensors")}
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert digests == {attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth").digest}


# One of several sets of weights.


def test_two_sets_of_weights_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    first, second = tiny(), tiny(in_chans=3)
    with torch.no_grad():
        second.fc.bias += 1
    torch.save({**prefixed(first.state_dict(), "model."), **prefixed(second.state_dict(), "ema_model.module.")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"model and ema_model\.module; choose one: write w\.pth#model or w\.pth#ema_model\.module"):
        attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth")
    images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(SEED))
    for key, network in {"model": first, "ema_model": second, "ema_model.module": second}.items():
        model = attrlib.load_model(TINY, "cpu", checkpoint=f"{tmp_path}/w.pth#{key}")
        with torch.no_grad():
            torch.testing.assert_close(model(images), network(images), rtol=1e-3, atol=1e-4)
    spec = attrlib.ModelSpec.parse(f"{TINY}@{tmp_path}/w.pth#ema_model")
    assert attrlib.load_model(spec.architecture, "cpu", **spec.options()).digest == model.digest
    with pytest.raises(ModelError, match="teacher"):
        attrlib.load_model(TINY, "cpu", checkpoint=f"{tmp_path}/w.pth#teacher")


# What cannot be loaded, and why.


def test_a_head_beside_a_whole_network_is_not_left_out_silently(tmp_path: Path) -> None:
    network = tiny(num_classes=10)
    width = network.fc.in_features
    for inputs in (width, 10):
        state = {**prefixed(network.state_dict(), "model."), "classifier.weight": torch.zeros(4, inputs), "classifier.bias": torch.zeros(4)}
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(
            ModelError, match=rf"another head beside it, classifier, that reads {inputs} features; write w\.pth#model .*wrap_model"
        ):
            attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth")
        assert len(attrlib.load_model(TINY, "cpu", checkpoint=f"{tmp_path}/w.pth#model").class_names) == 10


def test_layers_beside_the_children_of_a_network_are_not_left_out(tmp_path: Path) -> None:
    torch.save({**tiny().state_dict(), "extra_norm.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"1 not in the model: extra_norm\.weight"):
        attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth")


def test_a_normalisation_inside_the_file_is_said(tmp_path: Path) -> None:
    state = {**prefixed(tiny().state_dict(), "model."), "norm.mean": torch.tensor([0.1, 0.2, 0.3])}
    torch.save(state, tmp_path / "w.pth")
    notes = " | ".join(attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth").notes)
    assert "the file holds norm.mean 0.1/0.2/0.3: if the network normalises its input by it, give mean and std" in notes


def test_a_head_that_is_not_recognised_is_named_with_its_shapes(tmp_path: Path) -> None:
    network = tiny()
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    torch.save({**state, "fc.attention.in_proj_weight": torch.zeros(12, 4)}, tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match=r"the body of w\.pth fits timm:test_resnet, but its head fc .*attention\.in_proj_weight \(12, 4\).*wrap_model"
    ):
        attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth")


def test_a_size_that_cannot_be_read_is_asked_for(tmp_path: Path) -> None:
    torch.save(vit(img_size=(96, 128)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"trained with images of another shape .*pos_embed \(1, 49, 64\).*give that shape as input_size"):
        attrlib.load_model(VIT, "cpu", checkpoint=tmp_path / "w.pth")


def test_an_option_that_contradicts_the_checkpoint_is_named_with_what_the_checkpoint_has(tmp_path: Path) -> None:
    torch.save(vit(img_size=96).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth does not fit timm:test_vit with img_size=128: it has img_size=96"):
        attrlib.load_model(f"{VIT}?img_size=128", "cpu", checkpoint=tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"with num_classes=7: it has num_classes=4"):
        attrlib.load_model(f"{VIT}?num_classes=7", "cpu", checkpoint=tmp_path / "w.pth")


def test_an_unknown_parametrisation_is_refused(tmp_path: Path) -> None:
    network = resnet()
    parametrizations.orthogonal(network.fc)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"fc\.weight is parametrised in a way that cannot be undone"):
        attrlib.load_model(RESNET, "cpu", checkpoint=tmp_path / "w.pth")


def test_the_assumed_preprocessing_is_said_unless_it_is_given(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    notes = " | ".join(attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth").notes)
    assert "assumed the preprocessing of timm:test_resnet: 160x160 px, mean 0.5/0.5/0.5, std 0.5/0.5/0.5, bilinear, crop 0.95" in notes
    some = attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth", input_size=64, fit="squash", crop=1.0)
    assumed = (
        "assumed the preprocessing of timm:test_resnet: mean 0.5/0.5/0.5, std 0.5/0.5/0.5, bilinear; set mean, std or interpolation if"
    )
    assert assumed in " | ".join(some.notes)
    given = attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth", mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert "assumed" not in " | ".join(given.notes)
    half = attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth", mean=(0.1, 0.2, 0.3))
    assert "assumed the preprocessing of timm:test_resnet: 160x160 px, std 0.5/0.5/0.5, bilinear" in " | ".join(half.notes)


def test_a_size_that_is_given_is_not_assumed(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    notes = " | ".join(attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth", input_size=64).notes)
    assert "assumed the preprocessing of timm:test_resnet: mean 0.5/0.5/0.5" in notes
    assert "160x160" not in notes


@pytest.mark.parametrize(
    ("beside", "written"),
    [
        (
            {"args": dict(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], img_size=96, interpolation="bicubic", crop_pct=1)},
            "@96x96@mean=0.1/0.2/0.3@std=0.4/0.5/0.6@interpolation=bicubic@crop=1.0",
        ),
        ({"hyper_parameters": dict(img_size=96, mean=None)}, "@96x96"),
        ({"config": dict(mean=[127.5, 51, 102], std=[51, 51, 51])}, "@mean=0.5/0.2/0.4@std=0.2/0.2/0.2"),
        ({"args": dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], img_size=160, interpolation="bilinear", crop_pct=0.95)}, None),
        ({"args": dict(mean=[0.5], std=[0.5, 0.0, 0.5], interpolation="random", img_size=99999)}, None),
    ],
)
def test_what_the_file_says_of_the_preprocessing_is_said_and_applied_in_one_go(
    beside: dict[str, Any], written: str | None, tmp_path: Path
) -> None:
    torch.save({"state_dict": tiny().state_dict(), **beside}, tmp_path / "w.pth")
    model = attrlib.load_model(TINY, "cpu", checkpoint=tmp_path / "w.pth")
    said = [note for note in model.notes if "the file names" in note]
    if written is None:
        assert not said
        return
    assert f"write {written} after the model" in said[0]
    spec = attrlib.ModelSpec.parse(f"{TINY}@{tmp_path / 'w.pth'}{written}")
    applied = attrlib.load_model(spec.architecture, "cpu", **spec.options())
    own, hints = applied.preprocessing, next(iter(beside.values()))
    scale = 255 if max(hints.get("mean") or [0]) > 1 else 1
    assert own.size == (hints.get("img_size", 160),) * 2
    assert own.mean == pytest.approx([v / scale for v in hints.get("mean") or [0.5] * 3])
    assert own.std == pytest.approx([v / scale for v in hints.get("std") or [0.5] * 3])
    assert (own.interpolation, own.crop) == (hints.get("interpolation", "bilinear"), hints.get("crop_pct", 0.95))
    assert not [note for note in applied.notes if "the file names" in note]


def test_the_head_of_an_architecture_without_one_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    network = timm.create_model("vit_small_patch14_dinov2", img_size=28, depth=1, num_classes=4).eval()
    nn.init.normal_(network.head.weight)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = attrlib.load_model("timm:vit_small_patch14_dinov2?depth=1", "cpu", checkpoint=tmp_path / "w.pth")
    assert (model.architecture, model.input_size) == ("timm:vit_small_patch14_dinov2?depth=1&img_size=28", (28, 28))
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(model(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", [nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.Conv2d(3, 64, 3, padding=1, bias=False)])
def test_a_network_that_was_changed_after_it_was_built_is_called_that(stem: nn.Module, tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=3)
    network.conv1 = stem
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"conv1\.weight .*; the network was changed after it was built; .* use attrlib\.wrap_model"):
        attrlib.load_model(RESNET, "cpu", checkpoint=tmp_path / "w.pth")
