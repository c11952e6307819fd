import argparse
import builtins
import copy
import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from support.nets import Plain, Residual, made, pictures
from support.waiting import ends
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.loading.inference import infer
from attrlib.models.loading.prefixes import below, prefixes_of
from attrlib.models.loading.state_dicts import load_state

TIMM = "timm:test_resnet"
TORCHVISION = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture
def state() -> dict[str, Tensor]:
    return made(Plain).state_dict()


def save(content: object, path: Path) -> Path:
    """As its suffix says; `.old.pth` is the format before PyTorch 1.6."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=".old" not in path.suffixes)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


# Formats and wrappers.


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.tar", "w.pth.tar", "w.bin", "w.ckpt", "w.old.pth"])
def test_every_format_is_read_exactly(name, state, tmp_path):
    assert_same(read_checkpoint(save(state, tmp_path / name)).state, state)


def test_a_path_may_be_text_and_start_with_a_tilde(state, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(state, tmp_path / "w.pth")
    assert_same(read_checkpoint("~/w.pth").state, state)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights"])
def test_weights_are_found_under_the_usual_names(key, state, tmp_path):
    content = {"epoch": 3, "lr": 0.1, "best": torch.tensor(0.7), key: state}
    assert_same(read_checkpoint(save(content, tmp_path / "w.pth")).state, state)


def test_weights_are_found_under_nested_names(state, tmp_path):
    assert_same(read_checkpoint(save({"model": {"state_dict": OrderedDict(state)}}, tmp_path / "w.pth")).state, state)


def test_plain_weights_come_before_their_average(state, tmp_path):
    average = {k: v * 0 for k, v in state.items()}
    assert_same(read_checkpoint(save({"state_dict_ema": average, "state_dict": state}, tmp_path / "w.pth")).state, state)


def test_entries_that_are_not_tensors_are_left_out(state, tmp_path):
    assert_same(read_checkpoint(save({**state, "arch": "plain", "epoch": 3, "extra": None}, tmp_path / "w.pth")).state, state)


def test_a_namespace_beside_the_weights_does_no_harm(state, tmp_path):
    content = {"args": argparse.Namespace(lr=0.1, data="/data"), "model": state}
    assert_same(read_checkpoint(save(content, tmp_path / "w.pth")).state, state)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "net.backbone."])
def test_prefixes_of_wrappers_are_found(prefix, state):
    found = next(iter(prefixes_of(prefixed(state, prefix), state)))
    assert found == prefix
    assert_same(below(prefixed(state, prefix), found), state)


def test_a_prefix_that_the_module_has_too_stays():
    wrapped = nn.DataParallel(made(Plain)).state_dict()
    assert next(iter(prefixes_of(wrapped, wrapped))) == ""
    assert next(iter(prefixes_of(prefixed(wrapped, "model."), wrapped))) == "model."


@pytest.mark.parametrize("keys", [["a.weight", "b.weight"], ["module.x", "y"], ["weight"], []])
def test_foreign_keys_have_no_prefix(keys, state):
    assert prefixes_of({k: torch.zeros(1) for k in keys}, state) == {}


def test_half_precision_weights_are_loaded_as_float32(state):
    other = made(Plain, seed=1)
    load_state(other, {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, "w.pth")
    assert other.fc.weight.dtype == torch.float32
    torch.testing.assert_close(other.fc.weight, made(Plain).fc.weight, rtol=1e-2, atol=1e-3)


# Files that could run code.


class TouchesFile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return builtins.open, (str(self.marker), "w")


def saved_by_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def saved_by_torch(content: object, path: Path) -> None:
    torch.save(content, path)


def saved_by_old_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("writer", [saved_by_torch, saved_by_old_torch, saved_by_pickle])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.tar", "w.safetensors"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(writer, name, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / name
    writer(TouchesFile(marker), file)
    with pytest.raises(ModelError, match=r"w\.\w+ "):
        read_checkpoint(file)
    with pytest.raises(ModelError):
        attrlib.load_model(TIMM, "cpu", checkpoint=file)
    assert not marker.exists()


@pytest.mark.parametrize("writer", [saved_by_torch, saved_by_old_torch])
def test_an_object_beside_the_weights_that_would_run_code_is_left_out_and_runs_none(writer, state, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "w.pth"
    writer({"state_dict": state, "args": argparse.Namespace(x=[TouchesFile(marker)])}, file)
    found = read_checkpoint(file)
    assert_same(found.state, state)
    assert found.notes == (f"left out of w.pth, since loading it could run code: 'args' ({builtins.open.__module__}.open)",)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_malicious_pickle_runs_code_if_it_is_allowed_to(tmp_path):
    marker = tmp_path / "marker"
    saved_by_torch(TouchesFile(marker), tmp_path / "w.pth")
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TouchesFile(Path("never")), r"a pickled \w+\.open; .*save it again with safetensors"),
        (Plain(), r"a pickled support\.nets\.Plain; .*torch\.save\(model\.state_dict\(\), FILE\) in place of the model"),
        ({"epoch": 1, "model": Plain()}, r"a pickled support\.nets\.Plain under 'model'; .*torch\.save\(model\.state_dict\(\), FILE\)"),
    ],
    ids=["code", "module", "module inside"],
)
@pytest.mark.parametrize("name", ["w.pth", "w.old.pth"])
def test_the_refusal_names_the_object_and_gives_advice(name, content, says, tmp_path):
    with pytest.raises(ModelError, match=rf"{name} holds {says}") as caught:
        read_checkpoint(save(content, tmp_path / name))
    assert "loading it could run code, so it was not loaded" in str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.old.pth"])
def test_pythons_and_torchs_own_readers_are_not_used(name, state, tmp_path, monkeypatch):
    file = save({"model": state, "args": argparse.Namespace(a=1)}, tmp_path / name)
    for module, reader in [(torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (pickle, "_Unpickler")]:
        monkeypatch.setattr(module, reader, lambda *_, **__: pytest.fail("unpickled"))
    assert_same(read_checkpoint(file).state, state)


# Files that are not checkpoints.


def cut_positions(length: int) -> Iterator[int]:
    yield from range(1, length, max(1, length // 60))


@pytest.mark.parametrize(
    "name",
    [
        "w.pth",
        "w.safetensors",
        pytest.param("w.old.pth"),
    ],
)
def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(name, state, tmp_path):
    whole = save(state, tmp_path / name).read_bytes()
    file = tmp_path / f"cut{Path(name).suffix}"
    for length in [*cut_positions(len(whole)), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=file.name):
            read_checkpoint(file)


def test_a_damaged_file_of_the_old_format_is_refused(state, tmp_path):
    file = save(state, tmp_path / "w.old.pth")
    content = bytearray(file.read_bytes())
    last_key_of_a_storage = list(re.finditer(rb"X.\0\0\0\d{5,}", content))[-1]
    content[last_key_of_a_storage.end() - 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="cut off"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"these are no weights but words",
        b"PK\x03\x04 and then nothing that belongs here",
        b"\x80\x02.",
        bytes(range(256)) * 8,
    ],
    ids=["empty", "newline", "text", "half a zip", "half a pickle", "bytes"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar", ".safetensors"])
def test_a_file_of_something_else_is_refused(content, suffix, tmp_path):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"w\{suffix} "):
        read_checkpoint(file)


@pytest.mark.parametrize("content", [b"", b"these are no weights but words"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_empty_file_and_a_text_file_are_reported_as_unreadable(content, suffix, tmp_path):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a (checkpoint that PyTorch can read|safetensors file)"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "text",
    [
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n",
        "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    ],
    ids=["LFS pointer", "error page"],
)
def test_a_text_file_in_place_of_a_download_is_not_reported_as_unsafe(text, tmp_path):
    file = tmp_path / "w.pth"
    file.write_text(text)
    with pytest.raises(ModelError, match="is not a checkpoint that PyTorch can read"):
        read_checkpoint(file)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "folder.pth", "folder.safetensors", "", "no/such/folder/w.pth"])
def test_a_missing_file_and_a_folder_are_refused(name, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelError, match=r"there is no file .*give the path of a checkpoint"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, {"state_dict": {}}, {"model": {"epoch": 3}}, [1, 2], torch.zeros(3), "text", None, argparse.Namespace(a=1)],
    ids=str,
)
def test_a_file_without_weights_is_refused(content, tmp_path):
    with pytest.raises(ModelError, match=r"w\.pth holds no weights; expected a state dict"):
        read_checkpoint(save(content, tmp_path / "w.pth"))


def test_a_safetensors_file_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(save({}, tmp_path / "w.safetensors"))


def test_a_recursive_file_is_refused(tmp_path):
    content: dict[str, object] = {}
    content["model"] = content
    file = save(content, tmp_path / "w.pth")
    with ends(), pytest.raises(ModelError):
        read_checkpoint(file)


# Small files that stand for large weights.


WITHOUT_VALUES = {
    "expanded": lambda: torch.zeros(1, 1).expand(1_500_000, 512),
    "one value many times": lambda: torch.zeros(2).as_strided((3,), (0,)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "without data": lambda: torch.zeros(3, device="meta"),
}


@pytest.mark.parametrize("key", ["fc.weight", ""])
@pytest.mark.parametrize("make", WITHOUT_VALUES.values(), ids=WITHOUT_VALUES)
@pytest.mark.parametrize("name", ["w.pth", "w.old.pth"])
def test_a_tensor_with_values_missing_from_the_file_is_refused(name, make, key, state, tmp_path):
    file = save({"state_dict": {**state, key: make()}}, tmp_path / name)
    with pytest.raises(ModelError, match=rf"{name} does not hold all values of '{key}' .*save it again with v\.contiguous\(\)"):
        read_checkpoint(file)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("packed", ["/data/0", "/data.pkl"])
def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(packed, kind, tmp_path, monkeypatch):
    plain, file = save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pth"), tmp_path / "w.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), kind if name.endswith(packed) else zipfile.ZIP_STORED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(
        ModelError, match=r"w\.pth is compressed .*so it was not loaded; save it again with safetensors, or with torch\.save"
    ):
        read_checkpoint(file)


def test_entries_of_an_archive_that_share_their_bytes_are_refused(tmp_path, monkeypatch):
    file = save({f"w{k}": torch.full((1000,), float(k)) for k in range(20)}, tmp_path / "w.pth")
    with zipfile.ZipFile(file, "a") as archive:
        (large,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        for k in range(20, 60):
            archive.filelist.append(copy.copy(large))
            archive.filelist[-1].filename = large.filename.removesuffix("0") + str(k)
        archive.writestr("last", b"")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(ModelError, match=r"w\.pth is compressed"):
        read_checkpoint(file)


def test_an_archive_with_a_second_directory_is_refused(tmp_path):
    """`zipfile` sees a harmless directory, before the end record, PyTorch the one at the offset, of compressed entries."""
    plain, packed, harmless = save({"w": torch.zeros(100_000)}, tmp_path / "plain.pth"), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    body, end = packed.getvalue()[:-22], packed.getvalue()[-22:]
    (size,) = struct.unpack("<I", end[12:16])
    entry = zipfile.ZipInfo("a")
    entry.comment = b" " * (size - 46 - 1)
    with zipfile.ZipFile(harmless, "w") as target:
        target.writestr(entry, b"")
    file = tmp_path / "w.pth"
    file.write_bytes(body + harmless.getvalue()[-22 - size : -22] + end)
    assert torch.equal(torch.load(file, weights_only=True)["w"], torch.zeros(100_000))
    with pytest.raises(ModelError, match=r"w\.pth is not a checkpoint .* zip file that PyTorch did not write"):
        read_checkpoint(file)


def test_views_of_tensors_in_the_file_are_read(tmp_path):
    values = torch.arange(12.0).view(3, 4)
    views = {"transposed": values.T, "part": values[1:, 2:], "tied": values, "empty": values[:0], "one row": values[:1].expand(1, 4)}
    assert_same(read_checkpoint(save(views, tmp_path / "w.pth")).state, views)


def test_the_head_of_a_checkpoint_has_a_bounded_number_of_classes():
    own = BUILDERS[TIMM](7).state_dict()

    def head(classes: int) -> dict[str, Tensor]:
        width = own["fc.weight"].shape[1]
        return {**own, "fc.weight": torch.zeros(classes, width, dtype=torch.uint8), "fc.bias": torch.zeros(classes)}

    assert infer(TIMM, {}, head(MOST_CLASSES), None) == {"num_classes": MOST_CLASSES}
    with pytest.raises(
        ModelError, match="the checkpoint has 100001 classes, more than the 100000 that can be loaded; choose one with fewer"
    ):
        infer(TIMM, {}, head(MOST_CLASSES + 1), None)


# Another architecture.


def test_weights_of_another_architecture_are_refused_with_the_keys_that_do_not_fit(state):
    spoilt = dict(state)
    del spoilt["features.0.weight"]
    spoilt["features.9.weight"] = torch.zeros(1)
    spoilt["features.2.weight"] = torch.zeros(7, 4, 3, 3)
    with pytest.raises(ModelError) as caught:
        load_state(made(Plain), spoilt, "w.pth")
    message = str(caught.value)
    assert message.startswith("w.pth does not fit this architecture")
    assert "1 missing: features.0.weight" in message
    assert "1 not in the model: features.9.weight" in message
    assert "1 of another shape: features.2.weight (7, 4, 3, 3) for (6, 4, 3, 3)" in message
    assert "choose the architecture that it was saved from" in message


def test_a_long_list_of_keys_is_cut_and_counted(state):
    with pytest.raises(ModelError) as caught:
        load_state(made(Residual), state, "w.pth")
    own = made(Residual).state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    assert f"{len(missing)} missing: {', '.join(missing[:4])}, ..." in str(caught.value)
    assert missing[4] not in str(caught.value)


def test_weights_that_do_not_fit_are_not_loaded_partially(state):
    module = made(Plain, seed=1)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ModelError):
        load_state(module, {k: v for k, v in state.items() if k != "fc.bias"}, "w.pth")
    assert_same(module.state_dict(), before)


def test_weights_from_before_batch_counters_are_loaded(state):
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    module = made(Plain, seed=1)
    counters = {k: v.clone() for k, v in module.state_dict().items() if k not in old}
    load_state(module, old, "w.pth")
    assert counters
    assert_same(module.state_dict(), old | counters)


class Versioned(nn.Module):
    """Refuses, as torchvision's MNASNet does, a state dict without a version."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def _load_from_state_dict(self, state: dict, prefix: str, metadata: dict, *rest: object) -> None:
        if metadata.get("version") is None:
            raise ValueError("no version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_module_versions_are_preserved(tmp_path):
    file = save(Versioned().state_dict(), tmp_path / "w.pth")
    module = Versioned()
    with torch.no_grad():
        module.weight.fill_(-1)
    load_state(module, read_checkpoint(file).state, "w.pth")
    assert module.weight.item() == 0


# Whole networks.


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    TIMM: lambda classes: timm.create_model("test_resnet", num_classes=classes),
    "timm:test_vit": lambda classes: timm.create_model("test_vit", num_classes=classes),
    "timm:deit_tiny_distilled_patch16_224": lambda classes: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=classes),
    TORCHVISION: lambda classes: torchvision.models.shufflenet_v2_x0_5(num_classes=classes),
    "torchvision:squeezenet1_1": lambda classes: torchvision.models.squeezenet1_1(num_classes=classes),
    "efficientnet_lite0": lambda classes: timm.create_model("tf_efficientnet_lite0", num_classes=classes),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("classes", [7, 1000])
def test_a_checkpoint_restores_the_network_that_it_was_saved_from(name, classes, tmp_path):
    network = made(BUILDERS[name], classes)
    file = save({"epoch": 1, "state_dict": prefixed(network.state_dict(), "module.")}, tmp_path / "w.pth")
    model = attrlib.load_model(name, "cpu", checkpoint=file)
    assert_same(model.module.state_dict(), network.state_dict())
    images = pictures(1, *model.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=1e-3, atol=1e-4)
    assert len(model.class_names) == classes
    assert model.class_names[0].split(",")[0] == ("class 0" if classes == 7 else "tench")
    assert model.spec.checkpoint == str(file)


def test_a_checkpoint_of_a_torchvision_regnet_is_loaded(tmp_path):
    file = save(torchvision.models.regnet_y_400mf(num_classes=7).state_dict(), tmp_path / "w.pth")
    assert len(attrlib.load_model("torchvision:regnet_y_400mf", "cpu", checkpoint=file).class_names) == 7


def test_both_ways_to_give_file_and_architecture_are_equivalent(tmp_path):
    file = save(BUILDERS[TIMM](3).state_dict(), tmp_path / "w.safetensors")
    first = attrlib.load_model(TIMM, "cpu", checkpoint=file)
    second = attrlib.load_model(str(file), "cpu", architecture=TIMM)
    assert first.digest == second.digest
    assert first.spec == second.spec == attrlib.ModelSpec(TIMM, str(file))


def test_class_names_can_be_given_with_a_checkpoint(tmp_path):
    file = save(BUILDERS[TIMM](3).state_dict(), tmp_path / "w.pth")
    assert attrlib.load_model(TIMM, "cpu", checkpoint=file, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(ModelError, match="2 class names for a model with 3 outputs"):
        attrlib.load_model(TIMM, "cpu", checkpoint=file, class_names=["a", "b"])


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "weights without suffix"])
def test_a_checkpoint_without_architecture_is_refused_with_advice(name, tmp_path):
    file = tmp_path / name
    torch.save({}, file)
    with pytest.raises(ModelError, match=r"is a checkpoint file; give its architecture too, for example architecture='timm:resnet18'"):
        attrlib.load_model(str(file), "cpu")


def test_a_path_without_architecture_is_refused_with_advice(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="give its architecture"):
        attrlib.load_model(tmp_path / "w.pth", "cpu")


def test_a_checkpoint_of_another_published_network_is_refused(tmp_path):
    file = save(BUILDERS[TIMM](7).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        ModelError,
        match=r"w\.pth does not fit this architecture \(\d+ missing: stage2\.0.*\d+ not in the model: conv1\.3.*\d+ of another shape: conv1\.0",
    ):
        attrlib.load_model(TORCHVISION, "cpu", checkpoint=file)


def test_a_missing_checkpoint_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ModelError, match=r"there is no file .*nothing\.pth"):
        attrlib.load_model(TIMM, "cpu", checkpoint=tmp_path / "nothing.pth")


def test_reading_does_not_change_a_file(state, tmp_path):
    file = save(state, tmp_path / "w.pth")
    content = file.read_bytes()
    read_checkpoint(file)
    assert file.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]
    assert_same(torch.load(io.BytesIO(content), weights_only=True), state)


def test_a_text_file_beside_a_checkpoint_names_its_classes(tmp_path):
    file = save(BUILDERS[TIMM](7).state_dict(), tmp_path / "w.pth")
    count = len(attrlib.load_model(TIMM, "cpu", checkpoint=file).class_names)
    names = [f"bird {k}" for k in range(count)]
    (tmp_path / "w.txt").write_text("\ufeff" + "\n".join(names) + "\n\n", "utf-8")
    model = attrlib.load_model(TIMM, "cpu", checkpoint=file)
    assert model.class_names == tuple(names)
    assert model.target("bird 1") == 1
    given = attrlib.load_model(TIMM, "cpu", checkpoint=file, class_names=[str(k) for k in range(count)])
    assert given.class_names[1] == "1"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"one\ntwo\n", r"w\.txt names 2 classes, but the model has \d+; write one name per line"),
        (b"\xff\xfe\x00", r"w\.txt beside the checkpoint is not a readable text file"),
        (b"a" * (1 << 20) + b"b", r"w\.txt beside the checkpoint is too large"),
    ],
    ids=["count", "bytes", "size"],
)
def test_a_file_that_does_not_name_the_classes_is_refused(content, says, tmp_path):
    file = save(BUILDERS[TIMM](7).state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        attrlib.load_model(TIMM, "cpu", checkpoint=file)
