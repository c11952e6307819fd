"""Options in the name of an architecture: parsed without running code, checked against the constructor, and passed to it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# isort: split
import pytest
import timm
import torch
import torchvision
from support.numbers import SEED

from attrlib.errors import ModelError
from attrlib.models import check_name, list_models, load_model, parse_model, with_classes
from attrlib.models.options import join_options, split_options
from attrlib.models.sources import channel_values
from attrlib.studies.traits import parse_architecture

NAME = "timm:test_vit?drop_rate=0.5&in_chans=1&img_size=96x128&num_classes=4&qkv_bias=false&weight=none&global_pool=avg"
VALUES = dict(drop_rate=0.5, in_chans=1, img_size=(96, 128), num_classes=4, qkv_bias=False, weight=None, global_pool="avg")


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    state, expected = module.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], value) for key, value in expected.items())


def test_values_have_the_type_that_they_are_written_as() -> None:
    base, options = split_options(NAME)
    assert base == "timm:test_vit"
    assert options == VALUES
    assert {key: type(value) for key, value in options.items()} == {key: type(value) for key, value in VALUES.items()}
    assert split_options(join_options(base, options)) == (base, options)


def test_names_with_the_same_options_are_the_same_model() -> None:
    one, other = parse_model("timm:test_vit?num_classes=4&img_size=96"), parse_model("timm:test_vit?img_size=96&num_classes=4")
    assert one == other
    assert one.architecture == "timm:test_vit?img_size=96&num_classes=4"
    assert parse_model(one.text) == one


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit?", "option '' of timm:test_vit is not valid: write OPTION=VALUE"),
        ("timm:test_vit?img_size", "option 'img_size' of timm:test_vit is not valid"),
        ("timm:test_vit?img_size=96&img_size=96", "option img_size of timm:test_vit is given twice"),
        ("timm:test_vit?img_size=__import__('os')", "is not valid: write a number, HxW, true, false, none or a word"),
        ("timm:test_vit?img_size=99999", "img_size=99999 of timm:test_vit is too large: give at most 2048"),
        ("timm:test_vit?depth=100000", "depth=100000 of timm:test_vit is too large: give at most 256"),
        ("timm:test_vit?num_classes=100001", "is too large: give at most 100000"),
        ("timm:test_vit?embed_dim=32768&depth=200", "billion weights, more than the 2 that can be loaded"),
        ("timm:test_vit?image_size=96", "timm:test_vit has no option image_size; write img_size"),
        ("timm:resnet18?img_size=96", "timm:resnet18 has no option img_size; give input_size instead"),
        ("torchvision:vit_b_16?img_size=96", "torchvision:vit_b_16 has no option img_size; write image_size"),
        ("timm:test_vit?in_chan=1", "unknown option of timm:test_vit 'in_chan'. Did you mean in_chans"),
        ("timm:test_vit?checkpoint_path=x", "unknown option of timm:test_vit 'checkpoint_path'"),
        ("timm:test_vit?pretrained=true", "unknown option of timm:test_vit 'pretrained'"),
        ("timm:test_vit?qkv_bias=3", "qkv_bias=3 of timm:test_vit is not valid: write true or false"),
        ("timm:test_vit?in_chans=true", "in_chans=true of timm:test_vit is not valid: write a number"),
        ("timm:test_vit?img_size=100&patch_size=0", "timm:test_vit cannot be built with img_size=100, patch_size=0"),
        ("timm:test_vit?global_pool=nonsense", "timm:test_vit cannot be built with global_pool=nonsense"),
        ("torchvision:vit_b_16?image_size=97", "torchvision:vit_b_16 cannot be built with image_size=97"),
        ("attrlib:small_resnet20?in_chans=1", "unknown option of attrlib:small_resnet20 'in_chans'. Did you mean num_classes"),
        ("timm:nothing?in_chans=1", "unknown timm model 'nothing'"),
    ],
)
def test_options_that_cannot_be_used_are_refused_with_the_reason(name: str, message: str) -> None:
    name = name.replace("attrlib:small_resnet20", next(info.name for info in list_models("attrlib:*")))
    message = message.replace("attrlib:small_resnet20", next(info.name for info in list_models("attrlib:*")))
    for use in (check_name, lambda text: load_model(text, "cpu", pretrained=False)):
        with pytest.raises(ModelError) as caught:
            use(name)
        assert message in str(caught.value)


def test_a_trained_model_has_no_options() -> None:
    shipped = next(info.name for info in list_models() if info.source == "shipped")
    with pytest.raises(ModelError, match=f"{shipped} is a trained model and has no options; name its architecture, attrlib:"):
        check_name(f"{shipped}?num_classes=4")


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("timm:test_vit?img_size=96x128&num_classes=4", lambda: timm.create_model("test_vit", img_size=(96, 128), num_classes=4)),
        ("timm:test_resnet?in_chans=1&global_pool=max", lambda: timm.create_model("test_resnet", in_chans=1, global_pool="max")),
        ("timm:test_vit?act_layer=relu&depth=2", lambda: timm.create_model("test_vit", act_layer="relu", depth=2)),
        ("torchvision:shufflenet_v2_x0_5?num_classes=4", lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=4)),
    ],
)
def test_options_reach_the_constructor(name: str, build: Any) -> None:
    model = load_model(name, "cpu", pretrained=False, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = build()
    assert repr(model.module) == repr(expected)
    assert same_weights(model.module, expected)
    images = torch.randn(1, *model.input_shape, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected.eval()(images), rtol=1e-3, atol=1e-4)


def test_size_and_channels_of_the_preprocessing_follow_the_options() -> None:
    model = load_model("timm:resnet18?in_chans=1&num_classes=3", "cpu", pretrained=False)
    assert model.input_shape == (1, 224, 224)
    assert model.preprocessing.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert load_model("timm:test_vit?img_size=96x128", "cpu", pretrained=False).input_size == (96, 128)
    assert channel_values((0.1, 0.2, 0.3), 5) == (0.1, 0.2, 0.3, 0.1, 0.2)
    assert channel_values((0.1, 0.2, 0.3), 3) == (0.1, 0.2, 0.3)


def test_patterns_take_options() -> None:
    assert [info.name for info in list_models("timm:test_vit?num_classes=4&img_size=96")] == ["timm:test_vit?img_size=96&num_classes=4"]
    found = [info.name for info in list_models("timm:test_vi*?in_chans=1")]
    assert found == [f"{info.name}?in_chans=1" for info in list_models("timm:test_vi*")]
    assert len(found) > 3


def test_a_card_may_name_options(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", in_chans=1, num_classes=2).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    preprocessing = {"size": [64, 64], "mean": [0.5], "std": [0.25], "interpolation": "bilinear", "crop": 1.0}
    card = {"architecture": "timm:test_resnet?in_chans=1", "class_names": ["a", "b"], "preprocessing": preprocessing}
    (tmp_path / "w.json").write_text(json.dumps(card))
    model = load_model(tmp_path / "w.pth", "cpu")
    assert model.class_names == ("a", "b")
    assert model.notes == ()
    images = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=1e-3, atol=1e-4)


def test_training_starts_from_the_architecture_that_was_read_from_a_checkpoint(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", img_size=96, in_chans=1, num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    start = load_model("timm:test_vit", "cpu", checkpoint=tmp_path / "w.pth")
    assert start.spec.architecture == "timm:test_vit"
    assert start.architecture == "timm:test_vit?img_size=96&in_chans=1"
    new = with_classes(start, ["a", "b"], rows=(2, 0))
    assert new.architecture == start.architecture
    images = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        torch.testing.assert_close(new(images), network(images)[:, [2, 0]], rtol=1e-3, atol=1e-4)


def test_training_starts_from_the_body_of_a_network_with_another_head(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    network.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(network.fc.in_features, 3))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    new = with_classes(load_model("timm:test_resnet", "cpu", checkpoint=tmp_path / "w.pth"), ["a", "b"])
    body = {key: value for key, value in new.module.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in body.items())
    assert new.module.fc.weight.shape == (2, network.fc[1].in_features)


def test_the_family_of_an_architecture_does_not_depend_on_its_options() -> None:
    plain = parse_architecture("torchvision:resnet18")
    assert dataclasses.replace(parse_architecture("torchvision:resnet18?num_classes=4"), name=plain.name) == plain


def test_the_command_line_takes_options(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attrlib", "explain", "--model", "timm:test_vit?num_classes=4&img_size=96", "--checkpoint", "random:1"]
    rest = ["--image", "sample:cat", "--methods", "IxG", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *rest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wrong = subprocess.run(
        [*command[:5], "timm:test_vit?img=96", *rest],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "unknown option of timm:test_vit 'img'. Did you mean img_size" in " ".join(wrong.stderr.split())
