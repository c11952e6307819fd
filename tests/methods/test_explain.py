"""`attrlib.explain`: pictures and tensors of every kind, methods in every spelling, targets, and errors."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from support import method_nets
from support.method_nets import Functional, made, pictures
from torch import Tensor

from attrlib.engine.memory import row_bytes
from attrlib.errors import AttrlibError, ImageError, LayerError, MethodError, SpecError

SIZE = (48, 80)
NAMES = ["ant", "bee, honeybee", "cat", "dog", "elk"]
Model = attrlib.Classifier


@pytest.fixture(scope="module")
def model() -> Model:
    return attrlib.wrap_model(made(Functional), SIZE, class_names=NAMES)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))


def ixg(model: Model, images: Tensor, targets: list[int]) -> Tensor:
    """Input times gradient, with plain autograd."""
    leaf = images.clone().requires_grad_()
    score = model.module(leaf)[range(len(images)), targets].sum()
    return (leaf * torch.autograd.grad(score, leaf)[0]).sum(1, keepdim=True).detach()


# Images ------------------------------------------------------------------------------------------------------------------


def test_a_picture_may_be_pil_a_path_or_an_opened_photo(model: Model, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = ixg(model, model.preprocess(picture)[None], [2])
    for given in (picture, path, str(path), attrlib.open_image(path)):
        for images in (given, [given], (given,), iter([given])):
            found = attrlib.explain(model, images, "IxG", 2)
            assert torch.allclose(found.maps, expected, atol=1e-5)
            assert found.target == (2,)


def test_a_sample_photo_is_named_by_its_prefix(model: Model) -> None:
    expected = ixg(model, model.preprocess(attrlib.open_image("sample:cat").image)[None], [2])
    assert torch.allclose(attrlib.explain(model, "sample:cat", "IxG", "cat").maps, expected, atol=1e-5)


def test_pictures_of_all_kinds_and_sizes_go_together_in_order(model: Model, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "small.jpg"
    picture.resize((30, 20)).save(path)
    given = [path, "sample:cat", picture, attrlib.open_image("sample:coffee")]
    found = attrlib.explain(model, given, "IxG", [0, 1, 2, 3], batch_size=3)
    opened = [attrlib.open_image(path).image, attrlib.open_image("sample:cat").image, picture, attrlib.open_image("sample:coffee").image]
    expected = ixg(model, torch.stack([model.preprocess(p) for p in opened]), [0, 1, 2, 3])
    assert torch.allclose(found.maps, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["IxG", "SmoothGrad:samples=3", "RISE:samples=5", "Random"])
def test_the_order_of_images_does_not_matter(model: Model, method: str) -> None:
    images, order = pictures(5, *SIZE), [3, 0, 4, 1, 2]
    expected = attrlib.explain(model, images, method, [0, 1, 2, 3, 4], seed=5, batch_size=2).maps[order]
    found = attrlib.explain(model, images[order], method, order, seed=5, batch_size=2)
    assert found.target == tuple(order)
    assert torch.allclose(found.maps, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_tensor_may_be_one_image_or_a_batch_in_any_float_type(model: Model) -> None:
    images = pictures(3, *SIZE)
    expected = ixg(model, images, [0, 1, 2])
    for given in (images, images.double(), images.contiguous(memory_format=torch.channels_last)):
        assert torch.allclose(attrlib.explain(model, given, "IxG", [0, 1, 2]).maps, expected, atol=1e-5)
    assert torch.allclose(attrlib.explain(model, images[1], "IxG", 1).maps, expected[1:2], atol=1e-5)


@pytest.mark.parametrize("layer", ["Input", "stem", "Final"])
@pytest.mark.parametrize(
    "method", ["IxG", "Grad-CAM", "IG:steps=3", "Occlusion:window=9:stride=7", "RISE:samples=5:p=0.5", "Random", "Sobel"]
)
def test_a_tensor_of_another_size_is_explained_at_that_size(model: Model, layer: str, method: str) -> None:
    for size in ((64, 64), (32, 96), (72, 120)):
        images = pictures(2, *size)
        there = attrlib.wrap_model(model.module, size, layers={"Final": model.layer("Final").path})
        expected = attrlib.explain(there, images, method, [0, 1], layer)
        found = attrlib.explain(model, images, method, [0, 1], layer)
        assert torch.allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-6)
        assert found.resized().shape == (2, 1, *size)


@pytest.mark.parametrize("method", ["Gradient", "Grad-CAM", "RISE"])
def test_a_tensor_of_a_size_that_the_model_cannot_process_is_refused(method: str) -> None:
    with pytest.raises(AttrlibError, match="96"):
        attrlib.explain(method_nets.model("vit_tiny"), pictures(1, 96), method, 0)


@pytest.mark.parametrize("shape", [(80,), (48, 80), (1, 48, 80), (2, 1, 48, 80), (2, 4, 48, 80), (1, 2, 3, 48, 80), (0, 3, 48, 80)])
def test_a_tensor_of_a_wrong_shape_is_refused_with_its_shape(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=rf"shape \({', '.join(map(str, shape))},?\) is not a batch of images; pass .*\(B,3,H,W\)"):
        attrlib.explain(model, torch.zeros(shape), "Gradient")


@pytest.mark.parametrize("images", [[], (), iter([])])
def test_no_pictures_at_all_are_refused(model: Model, images: object) -> None:
    with pytest.raises(ImageError, match="no images given"):
        attrlib.explain(model, images, "Gradient")


def test_a_missing_file_is_named(model: Model) -> None:
    with pytest.raises(ImageError, match=r"no picture 'nowhere\.png'"):
        attrlib.explain(model, ["sample:cat", "nowhere.png"], "Gradient")


def test_an_unknown_sample_is_answered_with_the_available_ones(model: Model) -> None:
    with pytest.raises(ImageError, match=r"unknown sample photo 'cta'. Did you mean cat"):
        attrlib.explain(model, "sample:cta", "Gradient")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 48, 80, 3), np.uint8),
        [np.zeros((48, 80, 5), np.uint8)],
        [torch.zeros(3, 48, 80)],
        [None],
        None,
        3,
        b"not a picture",
        torch.zeros(1, 3, 48, 80, dtype=torch.uint8),
    ],
    ids=[
        "array of several",
        "list of arrays of five bands",
        "list of tensors",
        "list of None",
        "None",
        "number",
        "bytes",
        "tensor of whole numbers",
    ],
)
def test_an_object_that_is_not_a_picture_is_refused(model: Model, images: object) -> None:
    with pytest.raises(ImageError):
        attrlib.explain(model, images, "Gradient", 0)


# Methods and layers --------------------------------------------------------------------------------------------------------


def test_parameters_may_be_text_or_keywords_and_keywords_win(model: Model) -> None:
    images = pictures(1, *SIZE)
    expected = attrlib.explain(model, images, "IG", 1, "Final", steps=3, baseline="black")
    assert str(expected.spec) == "IG@Final:steps=3:baseline=black:channels=sum"
    for method, options in (
        ("IG@Final:steps=3:baseline=black", {}),
        (" IG @ Final : baseline = black : steps = 3 ", {}),
        ("IG@Input:steps=9:baseline=black", {"layer": "Final", "steps": 3}),
        ("IG:steps=9", {"layer": "Final", "steps": "3", "baseline": "black"}),
        (attrlib.MethodSpec("IG", "Final", (("steps", 3), ("baseline", "black"))), {}),
        (attrlib.MethodSpec("IG", "", (("steps", 9),)), {"layer": "Final", "steps": 3, "baseline": "black"}),
    ):
        found = attrlib.explain(model, images, method, 1, **options)
        assert found.spec == expected.spec
        assert torch.equal(found.maps, expected.maps)


def test_the_spec_of_a_result_is_complete_and_reproduces_its_maps(model: Model) -> None:
    images = pictures(1, *SIZE)
    for info in attrlib.list_methods():
        if info.family in ("intrinsic", "transformer") or info.name in ("TIS", "ViT-CX"):
            continue
        small = {p.name: {"steps": 3, "samples": 4}[p.name] for p in info.params if p.name in ("steps", "samples")}
        found = attrlib.explain(model, images, info.name, 1, seed=3, **small)
        assert found.spec.layer == info.default_layer
        assert [name for name, _ in found.spec.params] == [p.name for p in info.params]
        for again in (found.spec, str(found.spec)):
            assert torch.equal(attrlib.explain(model, images, again, 1, seed=3).maps, found.maps)
        assert found.seed == 3
        assert found.seconds > 0
        assert found.nbytes == 4 * found.maps.numel()


def test_a_layer_is_a_name_or_a_module_path_and_overrides_the_text(model: Model) -> None:
    images = pictures(1, *SIZE)
    for method, layer, size in (
        ("IxG", None, (48, 80)),
        ("Grad-CAM", None, (3, 5)),
        ("Grad-CAM@Middle", None, (6, 10)),
        ("Grad-CAM@Middle", "stem", (24, 40)),
        ("IxG@Final", "Input", (48, 80)),
    ):
        assert attrlib.explain(model, images, method, 0, layer).maps.shape == (1, 1, *size)


@pytest.mark.parametrize(
    ("method", "options", "error", "said"),
    [
        ("Gradeint", {}, MethodError, "unknown method 'Gradeint'. Did you mean Gradient"),
        ("ig", {}, MethodError, r"unknown method 'ig'. Did you mean IG\?"),
        ("???", {}, MethodError, r"unknown method '\?\?\?'. Known: Gradient, "),
        ("", {}, SpecError, "names no method"),
        ("@Final", {}, SpecError, "names no method"),
        ("IG:steps", {}, SpecError, "'steps' in 'IG:steps' is not key=value"),
        ("IG:", {}, SpecError, "is not key=value"),
        ("IG:steps=none", {}, SpecError, "IG: steps='none' is not valid: expected a whole number from 1 to 1000"),
        ("IG", {"step": 3}, SpecError, "unknown parameter of IG 'step'. Did you mean steps"),
        ("Grad-CAM", {"steps": 3}, SpecError, "Grad-CAM has no parameters, so 'steps' cannot be set"),
        ("IG", {"baseline": "grey"}, SpecError, "IG: unknown baseline 'grey'"),
        ("IG@Finale", {}, LayerError, "unknown layer of wrapped:Functional 'Finale'. Did you mean Final"),
        ("IG", {"layer": "middle"}, LayerError, r"Did you mean Middle\?"),
        ("IG", {"layer": "fc"}, LayerError, "layer 'fc' of wrapped:Functional yields no spatial map"),
    ],
)
def test_invalid_methods_are_refused_with_advice(
    model: Model, method: str, options: dict[str, object], error: type[AttrlibError], said: str
) -> None:
    with pytest.raises(error, match=said):
        attrlib.explain(model, pictures(1, *SIZE), method, 0, **options)


# Targets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3, (3, 3)),
        ("3", (3, 3)),
        ("dog", (3, 3)),
        ("Honeybee", (1, 1)),
        ("bee, honeybee", (1, 1)),
        ([4, "ant"], (4, 0)),
        (("2", 2), (2, 2)),
        (iter([0, 1]), (0, 1)),
        (np.array([1, 2]), (1, 2)),
        (np.int64(3), (3, 3)),
        (torch.tensor(3), (3, 3)),
        (torch.tensor([1, 2]), (1, 2)),
        ([torch.tensor(1), np.int64(2)], (1, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Iterator) else repr(value),
)
def test_a_target_is_an_index_or_a_name_one_for_all_or_one_for_each(model: Model, target: object, expected: tuple[int, ...]) -> None:
    images = pictures(2, *SIZE)
    found = attrlib.explain(model, images, "IxG", target)
    assert found.target == expected
    assert torch.allclose(found.maps, ixg(model, images, list(expected)), atol=1e-5)


def test_without_a_target_the_predicted_class_of_each_image_is_explained(model: Model) -> None:
    images = pictures(6, *SIZE) + 6 * pictures(6, 1)
    with torch.no_grad():
        predicted = model.module(images).argmax(1).tolist()
    assert len(set(predicted)) > 1
    assert attrlib.explain(model, images, "Gradient", batch_size=4).target == tuple(predicted)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (5, "target=5 is not a class of wrapped:Functional: it has classes 0 to 4"),
        (-1, "unknown class of wrapped:Functional '-1'"),
        ("cta", "unknown class of wrapped:Functional 'cta'. Did you mean cat"),
        ("²", "unknown class of wrapped:Functional '²'"),
        ([0, 7], "target=7 is not a class"),
        ([0], "1 targets for 2 images; pass one for all images, or one per image"),
        ([0, 1, 2], "3 targets for 2 images"),
        ([], "0 targets for 2 images"),
    ],
)
def test_an_unknown_target_or_a_wrong_number_of_targets_is_refused(model: Model, target: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        attrlib.explain(model, pictures(2, *SIZE), "Gradient", target)


# Results -----------------------------------------------------------------------------------------------------------------


def test_resized_is_bilinear_to_the_input_size_or_another(model: Model) -> None:
    found = attrlib.explain(model, pictures(2, *SIZE), "IxG", 0, "Final")
    assert found.maps.shape == (2, 1, 3, 5)
    for given, size in ((None, SIZE), ((7, 9), (7, 9)), ((3, 5), (3, 5))):
        assert torch.allclose(
            found.resized(given), F.interpolate(found.maps, size=size, mode="bilinear", align_corners=False), rtol=1e-6, atol=1e-9
        )


def test_defects_describe_each_map(model: Model) -> None:
    images = pictures(3, *SIZE)
    images[1] = 0
    images[2, 0, 5, 5] = torch.nan
    good, zero, broken = attrlib.explain(model, images, "IxG", 0).defects
    assert good is None
    assert zero is not None
    assert zero.startswith("All zero")
    assert broken is not None
    assert "NaN" in broken


def test_a_constant_map_is_a_defect() -> None:
    found = attrlib.explain(method_nets.model("resnet18"), pictures(1, 64), "Gradient", 0, "Final")
    assert found.defects[0] is not None
    assert found.defects[0].startswith("Constant")


def test_diagnostics_are_given_for_each_image_across_batches(model: Model) -> None:
    images = pictures(5, *SIZE)
    found = attrlib.explain(model, images, "IG", 1, steps=3, batch_size=2)
    assert list(found.diagnostics) == ["convergence"]
    each = [attrlib.explain(model, images[i], "IG", 1, steps=3).diagnostics["convergence"][0] for i in range(5)]
    assert found.diagnostics["convergence"] == pytest.approx(each, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
def test_no_more_rows_run_at_once_than_memory_allows(rows: int) -> None:
    module, seen = copy.deepcopy(method_nets.model("functional").module), []
    own = attrlib.wrap_model(module, 64)
    module.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    expected = attrlib.explain(own, pictures(5, 64), "SmoothGrad", 1, samples=3)
    assert max(seen) == 15
    seen.clear()
    found = attrlib.explain(own, pictures(5, 64), "SmoothGrad", 1, samples=3, max_memory=own.nbytes + rows * row_bytes(own))
    assert max(seen) == rows
    assert torch.allclose(found.maps, expected.maps, rtol=1e-3, atol=1e-5)
    # A picture of four times the size takes four times the memory.
    seen.clear()
    attrlib.explain(own, pictures(4, 128), "Gradient", 1, max_memory=own.nbytes + 8 * row_bytes(own))
    assert max(seen) == 2


def test_a_budget_that_is_too_small_for_one_picture_is_refused_before_anything_is_computed(model: Model) -> None:
    with pytest.raises(SpecError, match=r"for a single image, more than the .* allowed; raise max_memory"):
        attrlib.explain(model, pictures(1, *SIZE), "Gradient", 0, max_memory=model.nbytes)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_bytes_of_a_row_are_those_of_its_gradient_in_any_context(around: Callable[[], AbstractContextManager[object]]) -> None:
    own = attrlib.wrap_model(method_nets.model("functional").module, 64)
    with around():
        found = row_bytes(own)
    assert found == row_bytes(method_nets.model("functional"))
    assert found > 8 * 64 * 64 * 4
