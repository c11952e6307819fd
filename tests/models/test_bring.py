"""What a checkpoint file tells of its model, against files that are made here from known architectures."""

from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import timm
import torch
import torchvision
from torch import nn

from attrlib.errors import ModelError
from attrlib.models.bring import described, read_draft
from attrlib.models.cards import Card
from attrlib.models.preprocessing import Preprocessing

NAMES = ("ant", "bee", "cat")


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def net(name: str, count: int = 3) -> nn.Module:
    source, _, short = name.partition(":")
    return timm.create_model(short, num_classes=count) if source == "timm" else torchvision.models.get_model(short, num_classes=count)


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224", "torchvision:mobilenet_v3_small"]
)
def test_the_architecture_of_a_state_dict_is_suggested(name: str, tmp_path: Path) -> None:
    module = net(name)
    found = read_draft(saved(tmp_path / "net.pth", {"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}))
    assert name in found.architectures
    assert found.parameters == sum(v.numel() for v in module.state_dict().values())
    assert found.class_names is None
    assert found.options == {}


def test_what_a_trainer_writes_beside_the_weights_is_read(tmp_path: Path) -> None:
    content = {
        "state_dict": net("timm:resnet10t").state_dict(), "arch": "resnet10t", "class_to_idx": {name: k for k, name in enumerate(NAMES)},
        "args": {"img_size": 96, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "crop_pct": 0.9},
    }  # fmt: skip
    found = read_draft(saved(tmp_path / "net.pth", content))
    assert found.architectures[0] == "timm:resnet10t"
    assert found.class_names == NAMES
    assert found.options == {"input_size": (96, 96), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "crop": 0.9}


@pytest.mark.parametrize("args", [{"mean": "half"}, {"mean": [0.5, "x"]}, {"interpolation": "best"}, {"crop_pct": -1}, {"img_size": 10**9}])
def test_what_is_not_valid_beside_the_weights_is_not_used(args: dict[str, object], tmp_path: Path) -> None:
    found = read_draft(saved(tmp_path / "net.pth", {"state_dict": net("timm:resnet10t").state_dict(), "arch": "resnet50", "args": args}))
    assert found.options == {}
    assert "timm:resnet50" not in found.architectures


def test_the_card_beside_a_file_says_what_it_is(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.pth", net("timm:resnet10t").state_dict())
    file.with_suffix(".json").write_text(Card("timm:resnet10t?num_classes=3", NAMES, Preprocessing((64, 64))).text())
    found = read_draft(file)
    assert (found.architectures, found.class_names, found.options) == (("timm:resnet10t?num_classes=3",), NAMES, {})


def test_one_of_several_sets_of_weights_is_read_by_its_key(tmp_path: Path) -> None:
    small, large = net("timm:resnet10t"), net("torchvision:squeezenet1_1")
    file = saved(tmp_path / "net.pth", {"state_dict": small.state_dict(), "model_ema": large.state_dict()})
    assert "torchvision:squeezenet1_1" in read_draft(f"{file}#model_ema").architectures


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights"):
        read_draft(saved(tmp_path / "net.pth", {"epoch": 3}))
    with pytest.raises(ModelError, match="there is no file"):
        read_draft(tmp_path / "nothing.pth")


def test_a_model_is_described_without_a_change_of_the_original(tmp_path: Path) -> None:
    model = attrlib.load_model("timm:resnet10t", "cpu", checkpoint=saved(tmp_path / "net.pth", net("timm:resnet10t").state_dict()))
    other = described(model, NAMES, deletion_tuned=True)
    assert (other.class_names, other.deletion_tuned) == (NAMES, True)
    assert (model.class_names, model.deletion_tuned) == (("class 0", "class 1", "class 2"), False)
    assert other.module is model.module
    assert described(model).class_names == model.class_names
    with pytest.raises(ModelError, match="2 class names for a model with 3 outputs"):
        described(model, NAMES[:2])
