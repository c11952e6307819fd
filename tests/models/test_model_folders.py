"""Folders of models: which format they are of, models of timm in them, and what a download that fails says."""

import json
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import errors
from support.hub_models import saved
from support.nets import pictures
from timm.data import ImageNetInfo
from torch import nn

from attrlib.errors import ModelError, reason_of, shortened
from attrlib.models import check_name
from attrlib.models.folders import folder as model_folders
from attrlib.models.folders.folder import Folder, hub_problem, local_path

NAMES = ["bee", "fly", "ant"]


def refusal(name: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as error:
        attrlib.load_model(str(name), device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# timm ----------------------------------------------------------------------------------------------------------------------


def timm_folder(folder: Path, architecture: str = "test_vit", safe: bool = True, **options: Any) -> tuple[Path, nn.Module]:
    """A folder as timm pushes it to the hub, and the model in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = timm.create_model(architecture, **options).eval()
        nn.init.normal_(module.get_classifier().weight)
    config = dict(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=0.9, crop_mode="squash", interpolation="bilinear")
    module.pretrained_cfg.update(config, num_classes=module.num_classes)
    timm.models.save_for_hf(module, folder, model_config=dict(label_names=NAMES), model_args=options, safe_serialization=safe)
    return folder, module


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    ("architecture", "options"), [("deit_tiny_patch16_224", dict(img_size=96)), ("test_resnet", {}), ("test_convnext", {})]
)
def test_a_folder_of_timm_is_what_timm_saved(architecture: str, options: dict[str, Any], safe: bool, tmp_path: Path) -> None:
    folder, module = timm_folder(tmp_path, architecture, safe, num_classes=3, **options)
    assert [f.suffix for f in folder.iterdir() if "model" in f.name] == [".safetensors" if safe else ".bin"]
    model = attrlib.load_model(str(folder), device="cpu")
    own = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = pictures(2, *model.input_size)
    torch.testing.assert_close(model(images), own(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(images), module(images), rtol=1e-5, atol=1e-5)
    assert model.spec.text == f"timm:local-dir:{folder}"
    assert model.class_names == tuple(NAMES)
    if options:
        assert model.input_size == (96, 96)
    declared = model.preprocessing
    assert (declared.mean, declared.std, declared.crop, declared.fit) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, "squash")


def test_a_folder_of_timm_with_the_names_of_the_authors(tmp_path: Path) -> None:
    folder, module = timm_folder(tmp_path, "test_convnext", False, num_classes=3)
    rules = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]
    state = {}
    for key, value in module.state_dict().items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        state[key] = value
    torch.save(state, folder / "pytorch_model.bin")
    images = pictures(2, *attrlib.load_model(str(folder), device="cpu").input_size)
    own = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for expected in (own, module):
        torch.testing.assert_close(attrlib.load_model(str(folder), device="cpu")(images), expected(images), rtol=1e-5, atol=1e-5)


def test_a_local_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    for name in ("net", "hf:./net", f"hf:{tmp_path}/net"):
        assert attrlib.load_model(name, device="cpu").spec.architecture == f"hf:{tmp_path}/net"
    assert "there is no folder './other'" in refusal("hf:./other")


def test_descriptions_name_the_classes(tmp_path: Path) -> None:
    folder, _ = timm_folder(tmp_path, num_classes=3)
    config = json.loads((folder / "config.json").read_text())
    config["label_descriptions"] = {"bee": "a bee, insect"}
    (folder / "config.json").write_text(json.dumps(config))
    assert attrlib.load_model(f"timm:local-dir:{folder}", device="cpu").class_names == ("a bee, insect", "fly", "ant")


def test_without_names_the_classes_of_imagenet_are_known(tmp_path: Path) -> None:
    folder, _ = timm_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for values in (config, config["pretrained_cfg"]):
        values.pop("label_names", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert attrlib.load_model(str(folder), device="cpu").class_names[281] == ImageNetInfo().index_to_description(281)


def test_a_model_of_timm_that_transformers_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    module = timm.create_model("test_resnet", num_classes=3).eval()
    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=3)
    wrapped = transformers.TimmWrapperForImageClassification(config)
    wrapped.timm_model.load_state_dict(module.state_dict())
    wrapped.save_pretrained(tmp_path)
    model = attrlib.load_model(str(tmp_path), device="cpu")
    images = pictures(1, *model.input_size)
    torch.testing.assert_close(model(images), module(images))


def test_other_weights_for_a_folder_of_timm(tmp_path: Path) -> None:
    folder, _ = timm_folder(tmp_path / "model", num_classes=3)
    other = timm.create_model("test_vit", num_classes=2).eval()
    torch.save(other.state_dict(), tmp_path / "other.pth")
    model = attrlib.load_model(f"timm:local-dir:{folder}", device="cpu", checkpoint=tmp_path / "other.pth")
    images = pictures(1, *model.input_size)
    torch.testing.assert_close(model(images), other(images))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (dict(architecture="test_vti"), "unknown timm model 'test_vti'. Did you mean test_vit"),
        (dict(architecture="vit_giant_patch14_224"), "values, but its weights have"),
        (dict(model_args={"nonsense": 1}), "cannot be built by timm"),
        (dict(model_args={"pretrained_cfg": {"file": "/etc/passwd"}}), "model_args"),
        (dict(model_args={"checkpoint_path": "/etc/passwd"}, model_type="timm_wrapper"), "model_args"),
        (dict(model_args=["pretrained"]), "model_args"),
    ],
)
def test_a_config_of_timm_that_does_not_fit_is_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder, _ = timm_folder(tmp_path, num_classes=3)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    assert reason in refusal(folder)


# Names of folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_recognised_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = timm_folder(tmp_path / "of_timm", num_classes=3)
    other = saved(tmp_path / "of_transformers")
    monkeypatch.chdir(tmp_path)
    for name, spec in (
        ("of_timm", f"timm:local-dir:{folder}"),
        ("of_transformers", f"hf:{other}"),
        ("hf:./of_transformers", f"hf:{other}"),
    ):
        check_name(name)
        model = attrlib.load_model(name, device="cpu")
        assert attrlib.ModelSpec.parse(model.spec.text) == model.spec
        assert model.spec.text == spec


def test_another_folder_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert refusal(tmp_path).endswith("it holds photos, but config.json and weights (model.safetensors or pytorch_model.bin) are needed")
    (tmp_path / "config.json").write_text("{}")
    assert "it holds config.json, photos" in refusal(tmp_path)
    with pytest.raises(ModelError, match=r"it holds config\.json, photos"):
        check_name(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)


def test_a_folder_without_weights_says_which_are_needed(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "holds no weights; expected model.safetensors or pytorch_model.bin" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    assert "model.safetensors.index.json" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["hf:/no/such/folder", "hf:./gone", "hf:a/b/c", "hf:", "timm:local-dir:gone", "timm:hf-hub:a/b/c", "hf:a b/c", "hf:~nobody/x"]
)
def test_names_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "path"),
    [("hf:/a/b", "/a/b"), ("hf:../a", "../a"), ("hf:~/a", "~/a"), ("timm:local-dir:a", "a"), ("hf:org/name", None), ("hf:org/name?revision=v1", None),
     ("timm:hf-hub:org/name", None), ("timm:resnet18", None)],
)  # fmt: skip
def test_only_paths_are_local(name: str, path: str | None) -> None:
    assert local_path(name) == path


# Downloads -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the hub client's downloads, which `serve` answers."""
    monkeypatch.setattr(model_folders, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    return []


def serve(source: Path, cache: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub client copy the files of these patterns from a folder into its cache."""

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append(dict(repository=repository, revision=revision, patterns=allow_patterns))
        cache.mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for file in source.glob(pattern):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_a_repository_is_a_folder_that_is_downloaded(tmp_path: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "source")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    serve(folder, tmp_path / "cache", hub, monkeypatch)
    model = attrlib.load_model("hf:org/name?revision=v1", device="cpu")
    assert {(call["repository"], call["revision"]) for call in hub} == {("org/name", "v1")}
    assert sorted(f.name for f in (tmp_path / "cache").iterdir()) == ["config.json", "model.safetensors"]
    assert model.spec.text == "hf:org/name?revision=v1"
    assert torch.equal(model.module.classifier.weight, attrlib.load_model(str(folder), device="cpu").module.classifier.weight)


def test_parts_and_old_files_are_downloaded_where_there_is_nothing_else(
    tmp_path: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.hub_models import tiny

    (tmp_path / "old").mkdir()
    shutil.copy(saved(tmp_path / "whole") / "config.json", tmp_path / "old")
    torch.save(tiny().state_dict(), tmp_path / "old" / "pytorch_model.bin")
    tiny().save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    for name in ("old", "parts"):
        serve(tmp_path / name, tmp_path / f"cache {name}", hub, monkeypatch)
        model = attrlib.load_model("hf:org/name", device="cpu")
        assert torch.equal(model.module.classifier.weight, tiny().classifier.weight)


def test_repositories_of_timm(tmp_path: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, module = timm_folder(tmp_path / "source", num_classes=3)
    serve(folder, tmp_path / "cache", hub, monkeypatch)
    for name in ("timm:hf-hub:org/name", "hf:org/name"):
        model = attrlib.load_model(name, device="cpu")
        assert torch.equal(model.module.head.weight, module.head.weight)
        assert model.spec.text == name


def failed(cls: type[errors.HfHubHTTPError], status: int) -> Exception:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return cls(f"{status} Client Error. (Request ID: Root=1-6)\n\nCannot access https://huggingface.co/org/name", response=response)


@pytest.mark.parametrize(
    ("error", "reason", "advice"),
    [
        (failed(errors.RepositoryNotFoundError, 401), "has no such repository, or it is private", "hf auth login"),
        (failed(errors.GatedRepoError, 403), "on request only", "accept its conditions at https://huggingface.co/org/name"),
        (failed(errors.RevisionNotFoundError, 404), "no such revision", "branches"),
        (failed(errors.HfHubHTTPError, 503), "answers with status 503", "try again later"),
        (errors.LocalEntryNotFoundError("no"), "no connection to huggingface.co", "local folder"),
        (errors.OfflineModeIsEnabled("no"), "no connection to huggingface.co", "local folder"),
        (OSError(28, "No space left on device"), "No space left on device", "local folder"),
    ],
)
def test_a_download_that_fails_says_why(
    error: Exception, reason: str, advice: str, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    message = refusal("hf:org/name")
    assert message.startswith("hf:org/name could not be downloaded: ")
    assert reason in message
    assert advice in message


def test_the_cause_of_an_error_counts() -> None:
    error = RuntimeError("timm failed")
    error.__cause__ = errors.LocalEntryNotFoundError("no")
    assert hub_problem(error)[0].startswith("there is no connection")


class Refusing(BaseHTTPRequestHandler):
    """Answers every request as the hub does, with a status and an error code for the name of the repository."""

    def do_GET(self) -> None:
        codes = {"private": (401, "RepoNotFound"), "gated": (403, "GatedRepo"), "branch": (404, "RevisionNotFound"), "busy": (404, "")}
        status, code = next(value for name, value in codes.items() if name in self.path)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "org/private",
            "127.0.0.1 has no such repository, or it is private; check the name, or log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("org/gated", "access to it is granted on request only; accept its conditions at https://127.0.0.1/org/gated and log in"),
        ("org/branch?revision=gone", "it has no such revision; name one of its branches, tags or commits"),
        ("org/busy", "127.0.0.1 answers with status 404; try again later"),
    ],
)
def test_a_real_server_that_refuses(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(model_folders, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    try:
        assert reason in refusal(f"hf:{name}")
    finally:
        server.shutdown()
        server.server_close()


def test_a_real_connection_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folders, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal("hf:org/name")
    assert "no connection to 127.0.0.1, and the files are not in its cache" in message


def test_what_the_cache_holds_needs_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    saved(snapshot)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(model_folders, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert attrlib.load_model("hf:org/name", device="cpu").input_size == (32, 32)


def test_a_repository_is_parsed_once() -> None:
    assert Folder.parse("hf:org/name?revision=a/b") == Folder(None, "org/name", "a/b")


# Reasons -------------------------------------------------------------------------------------------------------------------


def test_reasons_end_between_words() -> None:
    text = " ".join(["word"] * 50)
    assert shortened(text, 22) == "word word word ..."
    assert shortened("\n  first \nsecond") == "first"
    assert shortened("x" * 300) == "x" * 160
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("short")) == "short"
