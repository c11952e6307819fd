import copy
import dataclasses
import functools
import hashlib
import io
import json
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.waiting import LIMIT
from typer.testing import CliRunner, Result

import attrlib
import attrlib.cli.explain
from attrlib.errors import Cancelled
from attrlib.methods import METHODS
from attrlib.models import Classifier, load_model
from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.registry import params_of
from attrlib.specs import ExplainSpec, MethodSpec, ModelSpec, ViewSpec

HERE = Path(__file__).parents[2]
FILES = ["manifest.json", "maps.npz", "panel.png"]
METHODS_TEXT = "Grad-CAM,IxG@Middle,IG@Final:steps=3"
PREDICTED = 282


@pytest.fixture(autouse=True)
def _one_model(embedded: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the embedded model between calls that load it; other calls load as usual."""

    def load(name: str = "efficientnet_lite0", device: str = "auto", checkpoint: str | None = None) -> Classifier:
        plain = (name, device, checkpoint) == ("efficientnet_lite0", "auto", None)
        return embedded if plain else load_model(name, device, checkpoint=checkpoint)

    monkeypatch.setattr(attrlib.cli.explain, "load_model", load)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def strict(text: str) -> Any:
    """Parse strict JSON, without the NaN and Infinity that Python's parser also accepts."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def succeeds(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def fails(*arguments: object, out: Path | None = None) -> str:
    """Return the one-line error message, which only notes precede; check that there is no other output, and no output folder."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    assert result.stdout == ""
    message = result.stderr.splitlines()[-1]
    assert message.startswith("error: ")
    assert all(line.startswith("note: ") for line in result.stderr.splitlines()[:-1])
    assert len(message) > 30
    assert out is None or not out.exists()
    return message


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "maps.npz", allow_pickle=False) as file:
        return dict(file)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, embedded: Classifier) -> Path:
    """Return the output folder of one run that many tests read or repeat."""
    out = tmp_path_factory.mktemp("explained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attrlib.cli.explain, "load_model", lambda *_args, **_options: embedded)
        succeeds("explain", "--image", "sample:cat", "--methods", METHODS_TEXT, "--seed", 3, "--out", out)
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, embedded: Classifier) -> dict[str, Path]:
    """Return checkpoints of the embedded architecture: the same weights, others, and weights with NaN."""
    folder = tmp_path_factory.mktemp("weights")
    state = embedded.module.state_dict()
    name = "classifier.bias"
    states = {"same": state, "other": state | {name: state[name] + 1e-3}, "nan": state | {name: state[name] * torch.nan}}
    for kind, one in states.items():
        torch.save(one, folder / f"{kind}.pth")
    return {kind: folder / f"{kind}.pth" for kind in states}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return the sample photo of a cat as a file."""
    attrlib.open_image("sample:cat").image.save(tmp_path / "my cat.webp", lossless=True)
    return tmp_path / "my cat.webp"


# Lists


def test_models_lists_models_that_need_no_download() -> None:
    model, *others = strict(succeeds("models", "--json").stdout)
    assert model["name"] == "efficientnet_lite0"
    assert model["source"] == "embedded"
    assert all(other["source"] == "shipped" for other in others)
    assert "efficientnet_lite0" in succeeds("models").stdout.splitlines()[0]


@pytest.mark.parametrize("pattern", ["timm:resnet1*", "*:vgg16", "nothing*"])
def test_models_finds_architectures_by_pattern(pattern: str) -> None:
    import torchvision

    everything = [f"timm:{n}" for n in timm.list_models()] + [f"torchvision:{n}" for n in torchvision.models.list_models()]
    everything += [f"idsds:{n}" for n in PUBLISHED] + [f"attrlib:{n}" for n in ARCHITECTURES]
    expected = {n for n in everything if fnmatch(n, pattern) and n.count("/") == 0}
    output = strict(succeeds("models", pattern, "--json").stdout)
    assert {m["name"] for m in output} == expected
    assert all(m["source"] == m["name"].partition(":")[0] for m in output)
    assert [line.split()[0] for line in succeeds("models", pattern).stdout.splitlines()] == [m["name"] for m in output]


def test_methods_lists_every_method_with_its_parameters() -> None:
    output = {m["name"]: m for m in strict(succeeds("methods", "--json").stdout)}
    assert list(output) == list(METHODS)
    for name, cls in METHODS.items():
        assert [p["name"] for p in output[name]["params"]] == [f.name for f in dataclasses.fields(cls)]
        assert [p["default"] for p in output[name]["params"]] == [f.default for f in dataclasses.fields(cls)]
        assert output[name]["default_layer"] == cls.default_layer
        assert output[name]["paper"]["url"].startswith("https://")
        assert output[name]["summary"] == cls.__doc__.splitlines()[0]
    (steps,) = [p for p in output["IG"]["params"] if p["name"] == "steps"]
    assert (steps["kind"], steps["low"], steps["high"]) == ("int", 1, 1000)
    text = succeeds("methods").stdout
    assert all(f"\n{name} " in f"\n{text}" for name in METHODS)
    assert "steps=50" in text


# explain


def test_explain_writes_exactly_panel_arrays_and_manifest(explained: Path) -> None:
    assert sorted(p.name for p in explained.iterdir()) == FILES


def test_the_arrays_are_those_of_the_library(explained: Path, embedded: Classifier) -> None:
    output = arrays(explained)
    expected = {}
    for method in METHODS_TEXT.split(","):
        a = attrlib.explain(embedded, "sample:cat", method, seed=3)
        expected[str(a.spec)] = a.maps[0, 0].numpy()
    assert list(output) == list(expected) == ["Grad-CAM@Final", "IxG@Middle:channels=sum", "IG@Final:steps=3:baseline=zeros:channels=sum"]
    for name, values in expected.items():
        assert output[name].dtype == np.float32
        assert (output[name] == values).all()


def test_a_memory_budget_changes_no_map_and_a_small_one_is_refused(explained: Path, embedded: Classifier, tmp_path: Path) -> None:
    photo = ("explain", "--image", "sample:cat", "--methods", "Grad-CAM", "--out", tmp_path / "out")
    assert "raise max_memory" in fails(*photo, "--max-memory", embedded.nbytes, out=tmp_path / "out")
    assert "max-memory='much' is not valid" in fails(*photo, "--max-memory", "much", out=tmp_path / "out")
    succeeds(*photo, "--max-memory", "2GB")
    assert all(np.array_equal(values, arrays(explained)[name]) for name, values in arrays(tmp_path / "out").items())


def test_the_panel_shows_the_photo_and_every_map(explained: Path, embedded: Classifier) -> None:
    with Image.open(explained / "panel.png") as panel:
        assert panel.size == (16 + 4 * (448 + 16), 16 + 448 + 66 + 16)
        photo = panel.crop((16, 16 + 44, 16 + 448, 16 + 44 + 448))
    values = np.asarray(photo.resize((224, 224), Image.Resampling.BOX), dtype=float)
    seen = embedded.preprocessing.denormalise(embedded.preprocess(attrlib.open_image("sample:cat").image)).permute(1, 2, 0).numpy() * 255
    assert np.abs(values - seen).mean() < 4


def test_the_manifest_describes_the_explanation(explained: Path, embedded: Classifier) -> None:
    manifest = strict((explained / "manifest.json").read_text())
    spec = ExplainSpec(
        ModelSpec("efficientnet_lite0"),
        "sample:cat",
        (MethodSpec("Grad-CAM"), MethodSpec("IxG", "Middle"), MethodSpec("IG", "Final", (("steps", "3"),))),
        seed=3,
    )
    assert manifest["kind"] == "explain"
    assert manifest["spec"] == json.loads(json.dumps(dataclasses.asdict(spec)))
    assert manifest["target"] == {"index": PREDICTED, "name": embedded.class_names[PREDICTED]}
    assert manifest["model_digest"] == embedded.digest
    assert manifest["image_digest"] == attrlib.open_image("sample:cat").digest
    assert manifest["torch"] == torch.__version__
    assert {name: tuple(m["shape"]) for name, m in manifest["maps"].items()} == {n: a.shape for n, a in arrays(explained).items()}
    assert all(m["defect"] is None for m in manifest["maps"].values())
    assert manifest["files"] == {name: hashlib.sha256((explained / name).read_bytes()).hexdigest() for name in FILES[1:]}


def test_explain_prints_json_that_agrees_with_the_files(embedded: Classifier, tmp_path: Path) -> None:
    arguments = ("--image", "sample:cat", "--methods", "IG:steps=2,Sobel", "--out", tmp_path / "out")
    result = succeeds("explain", *arguments, "--json")
    output = strict(result.stdout)
    assert result.stderr == ""
    assert (output["target"], output["class"], output["out"], output["device"]) == (282, "tiger cat", str(tmp_path / "out"), "cpu")
    assert {m["method"]: tuple(m["shape"]) for m in output["maps"]} == {n: a.shape for n, a in arrays(tmp_path / "out").items()}
    convergence = attrlib.explain(embedded, "sample:cat", "IG:steps=2").diagnostics["convergence"][0]
    assert output["maps"][0]["convergence"] == convergence
    assert all(m["seconds"] >= 0 for m in output["maps"])
    assert "identical" not in output
    lines = succeeds("explain", *arguments).stdout
    assert "tiger cat (282)" in lines
    assert f"convergence error {convergence:.1%}" in lines
    assert str(tmp_path / "out") in lines


def test_json_is_strict_even_if_the_model_overflows(weights: Mapping[str, Path], tmp_path: Path) -> None:
    result = succeeds(
        *(
            "explain",
            "--image",
            "sample:cat",
            "--methods",
            "IG:steps=1",
            "--checkpoint",
            weights["nan"],
            "--out",
            tmp_path / "out",
            "--json",
        )
    )
    strict(result.stdout)
    strict((tmp_path / "out" / "manifest.json").read_text())


@pytest.mark.parametrize(("target", "index"), [("281", 281), ("tabby", 281), ("Tabby, tabby cat", 281), ("tench", 0), ("999", 999)])
def test_a_target_is_chosen_by_index_or_name(target: str, index: int, embedded: Classifier, tmp_path: Path) -> None:
    result = succeeds(
        *("explain", "--image", "sample:cat", "--methods", "Grad-CAM", "--target", target, "--out", tmp_path / "out", "--json")
    )
    assert strict(result.stdout)["target"] == index
    assert strict((tmp_path / "out" / "manifest.json").read_text())["spec"]["target"] == index
    expected = attrlib.explain(embedded, "sample:cat", "Grad-CAM", target=index).maps[0, 0].numpy()
    assert (arrays(tmp_path / "out")["Grad-CAM@Final"] == expected).all()


@pytest.mark.parametrize(
    ("methods", "layer", "names"),
    [
        ("Grad-CAM", "Middle", ["Grad-CAM@Middle"]),
        ("IxG,Grad-CAM@Final", "Middle", ["IxG@Middle:channels=sum", "Grad-CAM@Final"]),
        ("Gradient:channels=abs-sum", "blocks.6.0", ["Gradient@blocks.6.0:channels=abs-sum"]),
        ("IG@Final:steps=2:baseline=blur", None, ["IG@Final:steps=2:baseline=blur:channels=sum"]),
        ("Occlusion@Final", None, ["Occlusion@Final:window=auto:stride=auto"]),
        ("Guided Backprop@Final", None, ["Guided Backprop@Final:channels=sum"]),
        (" Sobel , Sobel ,, Random ", None, ["Sobel@Input", "Random@Input"]),
    ],
)
def test_layers_and_parameters_of_methods(methods: str, layer: str | None, names: list, embedded: Classifier, tmp_path: Path) -> None:
    more = [] if layer is None else ["--layer", layer]
    succeeds("explain", "--image", "sample:cat", "--methods", methods, "--out", tmp_path / "out", *more)
    output = arrays(tmp_path / "out")
    assert list(output) == names
    for name, values in output.items():
        assert (values == attrlib.explain(embedded, "sample:cat", name).maps[0, 0].numpy()).all()


def test_only_random_methods_depend_on_the_seed(tmp_path: Path) -> None:
    for seed in (0, 7):
        succeeds("explain", "--image", "sample:cat", "--methods", "Random,Sobel", "--seed", seed, "--out", tmp_path / str(seed))
    zero, seven = arrays(tmp_path / "0"), arrays(tmp_path / "7")
    assert (zero["Sobel@Input"] == seven["Sobel@Input"]).all()
    assert (zero["Random@Input"] != seven["Random@Input"]).any()


@functools.cache
def drawn(*options: str) -> dict[str, bytes]:
    """Return the files of two coarse maps drawn with these options."""
    with TemporaryDirectory() as out:
        succeeds("explain", "--image", "sample:cat", "--methods", "Grad-CAM,IxG@Middle", "--out", out, *options)
        return contents(Path(out))


VIEWS = {
    "sign": ("absolute", ()),
    "smoothing": ("51", ()),
    "opacity": ("0.25", ()),
    "scale": ("shared", ()),
    "clip": ("60", ()),
    "diverging": ("PuOr", ()),
    "sequential": ("Viridis", ("--sign", "positive")),
}


@pytest.mark.parametrize("option", [p.name for p in params_of(ViewSpec)])
def test_a_view_option_changes_the_panel_and_no_map(option: str) -> None:
    value, others = VIEWS[option]
    before, after = drawn(*others), drawn(*others, f"--{option}", value)
    assert after["maps.npz"] == before["maps.npz"]
    assert after["panel.png"] != before["panel.png"]
    old, new = (strict(files["manifest.json"].decode()) for files in (before, after))
    assert {k for k in old["spec"]["view"] if old["spec"]["view"][k] != new["spec"]["view"][k]} == {option}
    assert str(new["spec"]["view"][option]).removesuffix(".0") == value
    assert new["files"]["maps.npz"] == old["files"]["maps.npz"]
    for manifest in (old, new):
        del manifest["spec"]["view"], manifest["files"]
    assert old == new


def test_a_checkpoint_gives_the_weights(weights: Mapping[str, Path], tmp_path: Path) -> None:
    for kind in ("same", "other"):
        succeeds("explain", "--image", "sample:cat", "--methods", "IxG@Final", "--checkpoint", weights[kind], "--out", tmp_path / kind)
    same, other = (strict((tmp_path / kind / "manifest.json").read_text()) for kind in ("same", "other"))
    assert same["spec"]["model"]["checkpoint"] == str(weights["same"])
    assert same["model_digest"] != other["model_digest"]


def test_random_weights_are_drawn_from_their_seed_and_repeated(tmp_path: Path) -> None:
    for seed in (1, 2):
        arguments = ("--image", "sample:cat", "--methods", "IxG@Final", "--checkpoint", f"random:{seed}")
        succeeds("explain", *arguments, "--out", tmp_path / str(seed))
    one, two = (arrays(tmp_path / seed)["IxG@Final:channels=sum"] for seed in "12")
    assert (one != two).any()
    result = succeeds("explain", "--from", tmp_path / "1" / "manifest.json", "--out", tmp_path / "again")
    assert "identical to the manifest" in result.stdout


def test_writing_twice_replaces_the_files_and_keeps_others(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("mine")
    for method in ("Random", "Sobel"):
        succeeds("explain", "--image", "sample:cat", "--methods", method, "--out", out)
        assert list(arrays(out)) == [f"{method}@Input"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "mine.txt"])


# Repeating


def test_a_manifest_is_repeated_bit_for_bit(explained: Path, tmp_path: Path) -> None:
    result = succeeds("explain", "--from", explained / "manifest.json", "--out", tmp_path / "again")
    assert "identical to the manifest, bit for bit" in result.stdout
    assert contents(tmp_path / "again") == contents(explained)
    output = strict(succeeds("explain", "--from", explained / "manifest.json", "--out", tmp_path / "again", "--json").stdout)
    assert output["identical"] is True


def test_a_manifest_is_repeated_with_its_target_view_and_parameters(tmp_path: Path) -> None:
    first = ("--image", "sample:coffee", "--methods", "IG@Final:steps=2,Random", "--target", "tench", "--seed", 5)
    succeeds("explain", *first, "--sign", "absolute", "--smoothing", 9, "--clip", 80, "--out", tmp_path / "one")
    result = succeeds("explain", "--from", tmp_path / "one" / "manifest.json", "--out", tmp_path / "two")
    assert "identical to the manifest" in result.stdout
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_same_picture_and_weights_in_other_files_repeat_a_manifest(
    explained: Path, picture: Path, weights: Mapping[str, Path], tmp_path: Path
) -> None:
    more = ("--image", picture, "--checkpoint", weights["same"])
    result = succeeds("explain", "--from", explained / "manifest.json", "--out", tmp_path / "again", *more, "--json")
    assert strict(result.stdout)["identical"] is True


def test_a_difference_from_the_manifest_is_reported(explained: Path, tmp_path: Path) -> None:
    manifest = json.loads((explained / "manifest.json").read_text())
    manifest["files"]["maps.npz"] = "0" * 64
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    result = succeeds("explain", "--from", tmp_path / "m.json", "--out", tmp_path / "out")
    assert "NOT identical" in result.stdout
    assert strict(succeeds("explain", "--from", tmp_path / "m.json", "--out", tmp_path / "out", "--json").stdout)["identical"] is False


def test_a_missing_picture_of_a_manifest_can_be_given_elsewhere(explained: Path, tmp_path: Path) -> None:
    manifest = json.loads((explained / "manifest.json").read_text())
    manifest["spec"]["image"] = "gone.png"
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    start = ("explain", "--from", tmp_path / "m.json", "--out", tmp_path / "out")
    assert "add --image" in fails(*start)
    assert "add --image" not in fails(*start, "--image", "gone.png")


def test_another_picture_or_other_weights_are_refused(explained: Path, weights: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    start = ("explain", "--from", explained / "manifest.json", "--out", out)
    assert "differs from the image" in fails(*start, "--image", "sample:coffee", out=out)
    assert "the weights" in fails(*start, "--checkpoint", weights["other"], out=out)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--model", "efficientnet_lite0"), ("--methods", "IG"), ("--target", "3"), ("--seed", "0"), ("--layer", "Final")]
    + [(f"--{name}", value) for name, (value, _) in VIEWS.items()],
)
def test_a_manifest_cannot_be_combined_with_its_own_fields(flag: str, value: str, explained: Path, tmp_path: Path) -> None:
    error = fails("explain", "--from", explained / "manifest.json", "--out", tmp_path / "out", flag, value, out=tmp_path / "out")
    assert f"error: {flag} cannot be combined with --from" in error


def changed(*path: str, to: object = None) -> Callable[[dict], str]:
    """Return a function that returns the manifest with one entry changed, or removed if `to` is None."""

    def change(manifest: dict) -> str:
        entry = manifest
        for key in path[:-1]:
            entry = entry[key]
        if to is None:
            del entry[path[-1]]
        else:
            entry[path[-1]] = to
        return json.dumps(manifest)

    return change


BAD_MANIFESTS: dict[str, Callable[[dict], str]] = {
    "empty": lambda _: "",
    "truncated": lambda m: json.dumps(m)[:300],
    "huge": lambda m: json.dumps(m | {"padding": "x" * (1 << 20)}),
    "deeply nested": lambda _: "[" * 100_000,
    "not JSON": lambda _: "kind: explain",
    "a list": lambda m: json.dumps([m]),
    "a number": lambda _: "5",
    "null": lambda _: "null",
    "of another kind": changed("kind", to="score"),
    "of another version": changed("numerics", to=0),
    "without kind": changed("kind"),
    "without spec": changed("spec"),
    "without numerics": changed("numerics"),
    "without files": changed("files"),
    "without model digest": changed("model_digest"),
    "without image digest": changed("image_digest"),
    "without model": changed("spec", "model"),
    "without methods": changed("spec", "methods"),
    "without view": changed("spec", "view"),
    "with an unknown model field": changed("spec", "model", to={"architecture": "efficientnet_lite0", "code": "x"}),
    "with a number for a model": changed("spec", "model", "architecture", to=5),
    "with a text for the model's seed": changed(
        "spec", "model", to={"architecture": "efficientnet_lite0", "pretrained": False, "seed": "x"}
    ),
    "with a list for a checkpoint": changed("spec", "model", "checkpoint", to=[1]),
    "with no methods": changed("spec", "methods", to=[]),
    "with a list for a method": changed("spec", "methods", to=[{"name": [], "layer": "", "params": []}]),
    "with a list for a layer": changed("spec", "methods", to=[{"name": "Random", "layer": [1], "params": []}]),
    "with a list for a parameter": changed("spec", "methods", to=[{"name": "IG", "layer": "", "params": [[[1], 2]]}]),
    "with a list for a value": changed("spec", "methods", to=[{"name": "IG", "layer": "", "params": [["steps", [2]]]}]),
    "with an unknown method": changed("spec", "methods", to=[{"name": "Nonsense", "layer": "", "params": []}]),
    "with a parameter out of range": changed("spec", "methods", to=[{"name": "IG", "layer": "", "params": [["steps", 0]]}]),
    "with an unknown target": changed("spec", "target", to=5000),
    "with a list for a target": changed("spec", "target", to=[1]),
    "with an infinite seed": changed("spec", "seed", to=float("inf")),
    "with a text for a seed": changed("spec", "seed", to="x"),
    "with an even smoothing": changed("spec", "view", "smoothing", to=4),
    "with an unknown view option": changed("spec", "view", "zoom", to=4),
    "with a number for a view": changed("spec", "view", to=5),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(kind: str, explained: Path, tmp_path: Path) -> None:
    manifest = json.loads((explained / "manifest.json").read_text())
    (tmp_path / "m.json").write_text(BAD_MANIFESTS[kind](copy.deepcopy(manifest)))
    fails("explain", "--from", tmp_path / "m.json", "--out", tmp_path / "out", out=tmp_path / "out")


def test_a_manifest_that_is_not_a_text_file_is_refused(explained: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(b"\xff\xfe\x00\x81")
    out = tmp_path / "out"
    for path in (tmp_path / "m.json", explained / "panel.png", explained / "maps.npz", tmp_path, tmp_path / "missing.json"):
        fails("explain", "--from", path, "--out", out, out=out)


# Bad input


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nosuch"], "unknown model 'nosuch'"),
        (["--model", "timm:resnet1000"], "unknown timm model"),
        (["--model", "torchvision:resnet1000"], "unknown torchvision model"),
        (["--model", "timm:"], "unknown model"),
        (["--device", "nonsense"], "device 'nonsense'"),
        (["--device", "meta"], "device 'meta'"),
        (["--methods", "Nonsense"], "unknown method 'Nonsense'"),
        (["--methods", "grad-cam"], "Did you mean Grad-CAM"),
        (["--methods", "Sobel,Nonsense"], "unknown method 'Nonsense'"),
        (["--methods", ","], "no method given"),
        (["--methods", "@Final"], "names no method"),
        (["--methods", "IG:step=3"], "Did you mean steps"),
        (["--methods", "Sobel:steps=3"], "Sobel has no parameters"),
        (["--methods", "IG:steps"], "not key=value"),
        (["--methods", "IG:steps=0"], "from 1 to 1000"),
        (["--methods", "IG:steps=1001"], "from 1 to 1000"),
        (["--methods", "IG:steps=2.5"], "a whole number"),
        (["--methods", "IG:steps=many"], "a whole number"),
        (["--methods", "IG:steps=--5"], "a whole number"),
        (["--methods", "IG:steps=" + "9" * 5000], "from 1 to 1000"),
        (["--methods", "IG:steps=2:steps=3"], "given twice"),
        (["--methods", "IG@Final@Input"], "names two layers"),
        (["--methods", "IG:baseline=grey"], "unknown baseline"),
        (["--methods", "RISE:p=nan"], "from 0.01 to 0.99"),
        (["--methods", "Sobel,IxG@Nowhere"], "unknown layer"),
        (["--layer", "Nowhere"], "unknown layer"),
        (["--layer", "classifier"], "yields no spatial map"),
        (["--target", "nosuch class"], "unknown class"),
        (["--target", "1000"], "classes 0 to 999"),
        (["--target=-1"], "unknown class"),
        (["--target", ""], "unknown class"),
        (["--target", "²"], "unknown class"),
        (["--seed", "nonsense"], "seed='nonsense'"),
        (["--seed", "1.5"], "seed='1.5'"),
        (["--seed=-1"], "seed=-1 is out of range"),
        (["--seed", "9" * 5000], "seed="),
        (["--smoothing", "4"], "odd"),
        (["--smoothing", "9" * 5000], "from 0 to 257"),
        (["--smoothing", "259"], "from 0 to 257"),
        (["--smoothing=-3"], "from 0 to 257"),
        (["--opacity", "1.1"], "from 0 to 1"),
        (["--opacity", "nan"], "from 0 to 1"),
        (["--clip", "49"], "from 50 to 100"),
        (["--clip", "much"], "a number"),
        (["--sign", "negative"], "Did you mean positive"),
        (["--scale", "nonsense"], "shared, each"),
        (["--diverging", "Inferno"], "BlueOrange"),
        (["--sequential", "RdBu"], "Viridis"),
        (["--image", "missing.png"], "there is no picture"),
        (["--image", "."], "there is no picture"),
        (["--image", ""], "there is no picture"),
        (["--image", "~nosuchuser/x.png"], "there is no picture"),
        (["--image", "x" * 300], "there is no picture"),
        (["--image", "sample:dog"], "unknown sample photo"),
        (["--checkpoint", "missing.pth"], "there is no file"),
        (["--checkpoint", "."], "there is no file"),
        (["--checkpoint", "~nosuchuser/x.pth"], "there is no file"),
        (["--checkpoint", "x" * 300], "there is no file"),
        (["--checkpoint", "random:dice"], "seed of random weights"),
        (["--from", "missing.json"], "cannot be combined"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_ends_with_a_one_line_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    start = ["explain", "--image", "sample:cat", "--methods", "Random", "--out", tmp_path / "out"]
    assert message in fails(*start, *arguments, out=tmp_path / "out")


@pytest.mark.parametrize("path", ["~nosuchuser/manifest.json", "x" * 300])
def test_a_manifest_at_an_impossible_path_is_refused(path: str, tmp_path: Path) -> None:
    assert "does not exist" in fails("explain", "--from", path, "--out", tmp_path / "out", out=tmp_path / "out")


def test_a_picture_and_a_method_are_required(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "add --image" in fails("explain", "--methods", "Random", "--out", out, out=out)
    assert "add for example --methods" in fails("explain", "--image", "sample:cat", "--out", out, out=out)


@pytest.mark.parametrize("arguments", [["explain"], ["nonsense"], ["explain", "--out", "x", "--nonsense", "1"], ["models", "a", "b"]])
def test_wrong_usage_ends_with_code_2_and_no_traceback(arguments: list[str]) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


@pytest.mark.parametrize("kind", ["no image", "empty", "truncated", "one pixel", "narrow", "huge", "GIF"])
def test_a_bad_picture_is_refused(kind: str, tmp_path: Path) -> None:
    def encoded(width: int, height: int, format_: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, format_)
        return file.getvalue()

    data = {
        "no image": b"no image at all\n" * 100,
        "empty": b"",
        "truncated": encoded(50, 50)[:3000],
        "one pixel": encoded(1, 1),
        "narrow": encoded(7, 100),
        "huge": bomb(30000, 30000),
        "GIF": encoded(50, 50, "GIF"),
    }[kind]
    (tmp_path / "x.png").write_bytes(data)
    error = fails("explain", "--image", tmp_path / "x.png", "--methods", "Random", "--out", tmp_path / "out", out=tmp_path / "out")
    assert "x.png" in error


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, pickled])
@pytest.mark.parametrize("name", ["x.pth", "x.tar", "x.safetensors", "x"])
def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(save: Callable, name: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / name
    save({"state_dict": {"a": torch.zeros(1)}, "extra": RunsCode(mark)}, file)
    arguments = ("explain", "--image", "sample:cat", "--methods", "Random", "--checkpoint", file, "--out", tmp_path / "out")
    fails(*arguments, out=tmp_path / "out")
    assert not mark.exists()
    pickle.loads(file.read_bytes()) if save is pickled else torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    assert mark.exists(), "the file runs no code, so this test proves nothing"


def test_a_checkpoint_of_another_architecture_is_refused(weights: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    start = ("explain", "--image", "sample:cat", "--methods", "Random", "--out", out)
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    error = fails(*start, "--checkpoint", tmp_path / "resnet.pth", out=out)
    assert "resnet.pth does not fit this architecture" in error
    assert "does not fit" in fails(*start, "--model", "timm:resnet10t", "--checkpoint", weights["same"], out=out)
    assert "nosuchtag" in fails(*start, "--model", "timm:resnet10t.nosuchtag", "--checkpoint", tmp_path / "resnet.pth", out=out)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_truncated_or_invalid_checkpoint_is_refused(weights: Mapping[str, Path], tmp_path: Path) -> None:
    data = weights["same"].read_bytes()
    for content in (b"", data[: len(data) // 2], b"text" * 100, pickle.dumps([1, 2])):
        for name in ("x.pth", "x.safetensors"):
            (tmp_path / name).write_bytes(content)
            arguments = ("explain", "--image", "sample:cat", "--methods", "Random", "--checkpoint", tmp_path / name)
            assert name in fails(*arguments, "--out", tmp_path / "out", out=tmp_path / "out")


def test_an_output_folder_that_is_a_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot write" in fails("explain", "--image", "sample:cat", "--methods", "Random", "--out", out)
    assert contents(tmp_path) == {"file": b"mine"}


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    assert "cannot write" in fails("explain", "--image", "sample:cat", "--methods", "Random", "--out", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_full_disk_leaves_the_old_files_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    succeeds("explain", "--image", "sample:cat", "--methods", "Random", "--out", out)
    before = contents(out)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left" in fails("explain", "--image", "sample:cat", "--methods", "Sobel", "--out", out)
    assert contents(out) == before


# Notes and interruption


def test_notes_on_a_converted_picture_go_to_standard_error(tmp_path: Path) -> None:
    picture = attrlib.open_image("sample:cat").image
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgba = picture.convert("RGBA")
    rgba.putalpha(100)
    rgba.save(tmp_path / "rgba.png")
    for name, note in (("cmyk.jpg", "CMYK"), ("rgba.png", "white")):
        result = succeeds("explain", "--image", tmp_path / name, "--methods", "Random", "--out", tmp_path / "out", "--json")
        assert result.stderr.startswith(f"note: {name}: ")
        assert note in result.stderr
        assert strict(result.stdout)["out"] == str(tmp_path / "out")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled])
@pytest.mark.parametrize("after", [0, 3])
def test_an_interruption_ends_with_code_130_and_writes_nothing(
    stop: type[BaseException], after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) > after:
            raise stop

    monkeypatch.setattr(attrlib.cli.explain, "_progress_line", lambda: interrupt)
    result = run("explain", "--image", "sample:cat", "--methods", "SmoothGrad@Final:samples=100", "--out", tmp_path / "out")
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "cancelled\n")
    assert len(calls) == after + 1
    assert not (tmp_path / "out").exists()


# As a separate process


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attrlib", *map(str, arguments)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_the_program_reproduces_the_result_of_the_library(explained: Path, tmp_path: Path) -> None:
    completed = program("explain", "--from", explained / "manifest.json", "--out", tmp_path / "out", "--json")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert strict(completed.stdout)["identical"] is True
    assert contents(tmp_path / "out") == contents(explained)


COMMANDS = """
import json, sys
from attrlib.cli import app
for arguments in json.load(sys.stdin):
    try:
        app(arguments)
    except SystemExit as end:
        print(end.code)
"""


def test_only_the_one_line_message_reaches_the_real_standard_error(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bomb(12000, 10000))
    pickled({"a": 1, "b": RunsCode(tmp_path / "mark")}, tmp_path / "code.pth")
    start = ["explain", "--methods", "Random", "--out", str(tmp_path / "out"), "--image"]
    commands = [
        [*start, str(tmp_path / "large.png")],
        [*start, "sample:cat", "--checkpoint", str(tmp_path / "code.pth")],
        [*start, "sample:cat", "--model", "nosuch"],
    ]
    command = [sys.executable, "-c", COMMANDS]
    completed = subprocess.run(command, cwd=HERE, input=json.dumps(commands), capture_output=True, text=True, timeout=LIMIT, check=False)
    lines = completed.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error"] * 3, completed.stderr
    assert [line.split()[1] for line in lines] == ["large.png", "code.pth", "unknown"]
    assert completed.stdout == "2\n" * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code.pth", "large.png"]
