"""Checkpoints as trainers write them: where the weights lie, what lies beside them, class names, hints, and other formats."""

import argparse
import collections
import datetime
import io
import json
import pathlib
import pickle
import struct
import tarfile
import types
import zipfile
from pathlib import Path

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from support.nets import Plain, made
from torch import Tensor, nn

from attrlib.cli.common import PARSERS
from attrlib.errors import ModelError
from attrlib.models.cards import files_of
from attrlib.models.checkpoints import read_checkpoint, split_key
from attrlib.models.files.torch_files import open_torch_file

TIMM = "timm:test_resnet"
FORMATS = {"w.pth": True, "w.old.pth": False}


def saved(content: object, path: Path, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS.get(path.name, True), pickle_protocol=protocol)
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    return made(Plain).state_dict()


@pytest.fixture
def average(state) -> dict[str, Tensor]:
    return {key: value * 0 for key, value in state.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in expected.items())


# Values, with torch's own reader as the oracle.


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_gives_the_tensors_that_torch_reads(protocol, name, tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        **{f"a.{dtype}".replace("torch.", ""): torch.randn(2, 3).mul(9).to(dtype) for dtype in (torch.half, torch.bfloat16, torch.double)},
        **{f"b.{dtype}".replace("torch.", ""): torch.arange(3).to(dtype) for dtype in (torch.uint8, torch.int8, torch.int32, torch.bool)},
        # torch itself cannot read these from files of the old format.
        **({"c.float8": torch.randn(4).to(torch.float8_e4m3fn), "c.uint16": torch.arange(3).to(torch.uint16)} if FORMATS[name] else {}),
        "c.complex": torch.ones(2) * 1j,
        "d.transposed": base.T,
        "d.part": base[1:3, ::2],
        "d.tied": base,
        "d.empty": base[:0],
        "d.scalar": torch.tensor(3.5),
        "e.parameter": nn.Parameter(torch.ones(2)),
        "e.buffer": nn.Buffer(torch.ones(2)),
    }
    file = saved(tensors, tmp_path / name, protocol)
    expected = torch.load(file, weights_only=False)
    found = read_checkpoint(file).state
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape, found[key].stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(*(t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (found[key], value)))
    assert found["d.tied"].data_ptr() == found["d.transposed"].data_ptr()


class Views(pickle.Pickler):
    """Writes the tensor `part` as a view of a storage of 12 numbers, as torch did before version 0.4."""

    def persistent_id(self, value: object) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", 12, ("1", 4, 6)) if value == "part" else None


def test_views_of_storages_in_old_files_are_read_as_torch_reads_them(tmp_path):
    class Tensor23:
        def __reduce__(self) -> tuple:
            return torch._utils._rebuild_tensor_v2, ("part", 1, (2, 2), (2, 1), False, collections.OrderedDict())

    file = tmp_path / "w.pth"
    with file.open("wb") as opened:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, opened, 2)
        Views(opened, 2).dump({"a.weight": Tensor23()})
        pickle.dump(["0"], opened, 2)
        opened.write((12).to_bytes(8, "little") + np.arange(12, dtype=np.float32).tobytes())
    expected = torch.load(file, weights_only=False)["a.weight"]
    assert expected.flatten().tolist() == [5, 6, 7, 8]
    assert torch.equal(read_checkpoint(file).state["a.weight"], expected)


def test_a_negated_view_is_refused(tmp_path):
    file = saved({"a.weight": torch._neg_view(torch.ones(2))}, tmp_path / "w.pth")
    assert torch.equal(torch.load(file, weights_only=False)["a.weight"], -torch.ones(2))
    with pytest.raises(ModelError, match=r"'a\.weight' \(it is negated or conjugated\); .*v\.resolve_neg\(\)"):
        read_checkpoint(file)


@pytest.mark.parametrize("name", FORMATS)
def test_module_versions_are_those_that_torch_keeps(name, tmp_path):
    file = saved(made(Plain).state_dict(), tmp_path / name)
    assert read_checkpoint(file).state._metadata == torch.load(file, weights_only=True)._metadata != {}


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_arrays_is_read(protocol, state, tmp_path):
    file = tmp_path / "w.pkl"
    arrays = {key: value.numpy() for key, value in state.items()} | {"order.f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol))
    assert same(read_checkpoint(file).state, state | {"order.f": torch.arange(6.0).double().reshape(2, 3)})


def test_tensors_written_by_pickle_alone_are_refused(state, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(dict(state)))
    with pytest.raises(ModelError, match=r"w\.pkl holds tensors that were written by pickle, not by torch\.save"):
        read_checkpoint(tmp_path / "w.pkl")


# Where the weights lie.


class Dictionary(dict):
    pass


ALONE = {
    "fastai": lambda s: {"model": s, "opt": {"state": [{"sqr_avg": torch.ones(2)}], "hypers": [{"lr": 0.1}]}},
    "lightning": lambda s: {
        "epoch": 1,
        "pytorch-lightning_version": "2.2",
        "state_dict": s,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "callbacks": {},
    },
    "torchvision": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
        "args": argparse.Namespace(lr=0.1),
        "scaler": {"scale": torch.tensor(2.0)},
    },
    "mmpretrain": lambda s: {"meta": {"CLASSES": ["a"], "mmcls_version": "1"}, "state_dict": s, "message_hub": {}},
    "mae": lambda s: {"model": s, "scaler": {}, "epoch": 3},
    "swa": lambda s: {"swa": 1, "model_state_dict": s},
    "nested": lambda s: {"checkpoint": 1, "ema": {"state_dict": s}},
    "network": lambda s: {"network": s},
    "module": lambda s: {"module": s, "global_steps": 3},
    "params": lambda s: {"params": s},
    "subclass of dict": lambda s: Dictionary(state_dict=Dictionary(s)),
    "defaultdict": lambda s: collections.defaultdict(list, {"state_dict": collections.defaultdict(int, s)}),
    "twice the same": lambda s: {"state_dict": s, "model_ema": s},
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("layout", ALONE.values(), ids=ALONE)
def test_weights_are_found_without_a_note_where_there_is_no_choice(layout, name, state, tmp_path):
    found = read_checkpoint(saved(layout(state), tmp_path / name))
    assert same(found.state, state)
    assert found.notes == ()


def test_weights_under_an_unusual_key_are_found_and_named(state, tmp_path):
    found = read_checkpoint(saved({"best": torch.tensor(0.3), "classifier_net": state}, tmp_path / "w.pth"))
    assert same(found.state, state)
    assert found.notes == ("the weights were read from 'classifier_net' of w.pth",)


@pytest.mark.parametrize(
    ("first", "second"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("params", "params_ema"), ("teacher", "student"), ("net", "ema")],
)
def test_of_two_networks_the_first_is_read_unless_the_other_is_chosen(first, second, state, average, tmp_path):
    file = saved({second: average, first: state}, tmp_path / "w.pth")
    found = read_checkpoint(file)
    assert same(found.state, state)
    assert found.notes == (f"the weights were read from '{first}'; w.pth also holds '{second}', to be chosen as w.pth#{second}",)
    assert same(read_checkpoint(f"{file}#{second}").state, average)
    assert same(read_checkpoint(f"{file}#{first}").state, state)


def test_a_key_may_lead_through_several_mappings(state, average, tmp_path):
    file = saved({"state_dict": state, "callbacks": {"EMA": {"state_dict": average}}}, tmp_path / "w.pth")
    assert same(read_checkpoint(f"{file}#callbacks/EMA/state_dict").state, average)
    assert same(read_checkpoint(f"{file}#callbacks/EMA").state, average)


def test_networks_without_a_usual_key_must_be_chosen(state, average, tmp_path):
    file = saved({"generator": state, "discriminator": average}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth holds weights under 'generator', 'discriminator'; choose one of them as FILE#KEY"):
        read_checkpoint(file)
    assert same(read_checkpoint(f"{file}#discriminator").state, average)


def test_a_key_that_the_file_lacks_is_refused_with_those_that_it_has(state, tmp_path):
    file = saved({"state_dict": state, "ema": {"state_dict": state}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"unknown key of w\.pth 'model_ema'\. .*state_dict"):
        read_checkpoint(f"{file}#model_ema")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"a safetensors file holds a single set of weights"):
        read_checkpoint(f"{tmp_path / 'w.safetensors'}#ema")


def test_a_mark_in_the_name_of_a_file_is_no_key(state, tmp_path):
    file = saved(state, tmp_path / "run#3.pth")
    assert split_key(file) == (str(file), None)
    assert split_key(f"{file}#a/b") == (str(file), "a/b")
    assert same(read_checkpoint(file).state, state)


def test_a_model_is_loaded_from_a_key_in_every_text_form(tmp_path, monkeypatch):
    torch.manual_seed(0)
    plain, other = (timm.create_model("test_resnet", num_classes=3).state_dict() for _ in range(2))
    file = saved({"model": plain, "model_ema": other}, tmp_path / "w.pth")
    for spec in (attrlib.ModelSpec(TIMM, f"{file}#model_ema"), attrlib.ModelSpec.parse(f"{TIMM}@{file}#model_ema")):
        assert attrlib.ModelSpec.parse(spec.text) == spec
        model = attrlib.load_model(spec.architecture, "cpu", checkpoint=spec.checkpoint)
        assert same(model.module.state_dict(), other)
    monkeypatch.chdir(tmp_path)
    assert PARSERS["checkpoint"]("w.pth#model_ema") == f"{file}#model_ema"


# What lies beside the weights.


def values() -> dict[str, object]:
    """Values as trainers keep them, each with the plain value that it stands for."""
    return {
        "best": (np.float64(0.5), 0.5),
        "epochs": (np.int64(7), 7),
        "flag": (np.bool_(True), True),
        "small": (np.float32(0.25), 0.25),
        "kind": (np.dtype("float32"), None),
        "curve": (np.arange(3.0), None),
        "strings": (np.array(["a", "b"]), None),
        "objects": (np.array(["a", None], dtype=object), None),
        "when": (datetime.datetime(2024, 5, 6, 7, 8, 9), "2024-05-06 07:08:09"),
        "day": (datetime.date(2024, 5, 6), "2024-05-06"),
        "took": (datetime.timedelta(hours=3), "3:00:00"),
        "zone": (datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC), None),
        "path": (pathlib.PurePosixPath("/data/x"), "/data/x"),
        "there": (pathlib.PosixPath("/data/x"), "/data/x"),
        "windows": (pathlib.PureWindowsPath("C:\\data"), None),
        "namespace": (argparse.Namespace(a=1, b=argparse.Namespace(c=2)), None),
        "simple": (types.SimpleNamespace(a=1), None),
        "counts": (collections.Counter("aab"), {"a": 2, "b": 1}),
        "queue": (collections.deque([1, 2], maxlen=3), [1, 2]),
        "ordered": (collections.OrderedDict(a=1), {"a": 1}),
        "default": (collections.defaultdict(list, a=[1]), {"a": [1]}),
        "set": ({1}, [1]),
        "frozen": (frozenset({1}), [1]),
        "complex": (1j, None),
        "range": (range(3), None),
        "size": (torch.Size([1, 2]), [1, 2]),
        "device": (torch.device("cuda", 1), "cuda:1"),
        "type": (torch.float32, None),
        "bytes": (b"\xff\x00", b"\xff\x00"),
        "big": (1 << 300, 1 << 300),
        "tuple": ((1, (2, 3)), (1, (2, 3))),
        "keys": ({(0, 1): 2, 1 << 90: 3}, None),
    }


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_values_beside_the_weights_are_read_without_a_note(protocol, name, state, tmp_path):
    content = {"state_dict": state, **{key: value for key, (value, _) in values().items()}}
    found = read_checkpoint(saved(content, tmp_path / name, protocol))
    assert same(found.state, state)
    assert found.notes == ()


@pytest.mark.parametrize("key", [key for key, (_, plain) in values().items() if plain is not None])
def test_a_plain_value_is_read_as_it_was(key, tmp_path):
    value, plain = values()[key]
    with open_torch_file(saved({key: value}, tmp_path / "w.pth")) as opened:
        assert opened.content == {key: plain}


class Trainer:
    def __init__(self) -> None:
        self.rate = 0.1


def test_objects_beside_the_weights_are_left_out_and_named(state, tmp_path):
    content = {"model": state, "trainer": [{"x": Trainer()}], "lr_scheduler": Trainer(), "epoch": 3}
    found = read_checkpoint(saved(content, tmp_path / "w.pth"))
    assert same(found.state, state)
    (note,) = found.notes
    kind = f"{Trainer.__module__}.Trainer"
    assert note == f"left out of w.pth, since loading it could run code: 'lr_scheduler' ({kind}), 'trainer' ({kind})"


def test_an_object_among_the_weights_is_refused_with_its_key(state, tmp_path):
    with pytest.raises(
        ModelError, match=rf"w\.pth holds a pickled {Trainer.__module__}\.Trainer under 'fc\.extra'; loading it could run code"
    ):
        read_checkpoint(saved({"model": {**state, "fc.extra": Trainer()}}, tmp_path / "w.pth"))


def test_a_whole_model_beside_its_weights_does_not_keep_these_from_being_read(state, tmp_path):
    found = read_checkpoint(saved({"net": made(Plain), "state_dict": state}, tmp_path / "w.pth"))
    assert same(found.state, state)
    assert "'net' (support.nets.Plain)" in found.notes[0]


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused_with_the_reason(state, tmp_path):
    says = r"w\.pth holds the weights of a quantised model .*give the checkpoint from before the quantisation"
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear}).state_dict()
    one = torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 0, torch.quint8)
    for content in (quantised, {**state, "fc.weight": one}, {**state, "fc.weight": torch.ones(3, 4, dtype=torch.int8)}):
        with pytest.raises(ModelError, match=says):
            read_checkpoint(saved(content, tmp_path / "w.pth"))


# Class names.

NAMES = ("cat", "dog", "red fox")
INDEX = {"dog": 1, "cat": 0, "red fox": 2}
NAMED = {
    "class_to_idx": {"class_to_idx": INDEX},
    "classes": {"classes": list(NAMES)},
    "tuple": {"class_names": NAMES},
    "array": {"classes": np.array(NAMES)},
    "array of objects": {"classes": np.array(NAMES, dtype=object)},
    "mmpretrain": {"meta": {"CLASSES": NAMES}},
    "mmengine": {"meta": {"dataset_meta": {"classes": NAMES}}},
    "lightning": {"hyper_parameters": {"class_to_idx": INDEX}},
    "lightning's own dict": {"hyper_parameters": Dictionary(classes=list(NAMES))},
    "namespace": {"args": argparse.Namespace(classes=list(NAMES))},
    "id2label": {"config": {"id2label": {"0": "cat", "2": "red fox", "1": "dog"}}},
    "idx_to_class": {"idx_to_class": {2: "red fox", 0: "cat", 1: "dog"}},
    "NumPy indices": {"class_to_idx": {name: np.int64(index) for name, index in INDEX.items()}},
    "the first valid one": {"class_to_idx": {"a": 3}, "classes": list(NAMES)},
}


@pytest.mark.parametrize("beside", NAMED.values(), ids=NAMED)
def test_class_names_in_a_checkpoint_are_read(beside, state, tmp_path):
    assert read_checkpoint(saved({"state_dict": state, **beside}, tmp_path / "w.pth")).class_names == NAMES


UNUSABLE = {
    "gap": {"class_to_idx": {"a": 0, "b": 2}},
    "twice": {"class_to_idx": {"a": 0, "b": 0}},
    "from one": {"class_to_idx": {"a": 1, "b": 2}},
    "no names": {"classes": [1, 2, 3]},
    "empty": {"classes": []},
    "empty name": {"classes": ["a", " "]},
    "control": {"classes": ["a", "b\x1b[31m"]},
    "long": {"classes": ["a", "b" * 1000]},
    "text": {"classes": "abc"},
    "many": {"classes": ["a"] * 100_001},
    "nested": {"id2label": {"0": {"a": 1}}},
}


@pytest.mark.parametrize("beside", UNUSABLE.values(), ids=UNUSABLE)
def test_class_names_that_are_not_valid_are_not_used(beside, state, tmp_path):
    found = read_checkpoint(saved({"state_dict": state, **beside}, tmp_path / "w.pth"))
    assert found.class_names is None
    assert same(found.state, state)
    if "class_to_idx" in beside:
        assert found.notes == ("'class_to_idx' does not number its classes 0, 1, 2, ..., so it is not used",)


def test_class_names_are_those_of_the_loaded_model_if_their_number_fits(tmp_path):
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    file = saved({"state_dict": weights, "class_to_idx": INDEX}, tmp_path / "w.pth")
    assert attrlib.load_model(TIMM, "cpu", checkpoint=file).class_names == NAMES
    assert attrlib.load_model(TIMM, "cpu", checkpoint=file, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    other = saved({"state_dict": weights, "classes": ["a", "b"]}, tmp_path / "v.pth")
    assert attrlib.load_model(TIMM, "cpu", checkpoint=other).class_names == ("class 0", "class 1", "class 2")
    says = "the checkpoint names 2 classes, but the model has 3, so the names are not used"
    assert says in attrlib.load_model(TIMM, "cpu", checkpoint=other).notes
    fitted = read_checkpoint(other).fitted(3)
    assert (fitted.class_names, fitted.notes) == (None, (says,))
    (tmp_path / "w.txt").write_text("one\ntwo\nthree\n")
    assert attrlib.load_model(TIMM, "cpu", checkpoint=file).class_names == ("one", "two", "three")


# Hints.

HINTED = {
    "timm's train.py": (
        {"arch": "resnet18", "args": argparse.Namespace(model="resnet18", num_classes=4, img_size=96, mean=[0.5, 0.5, 0.5], std=None, crop_pct=0.9, interpolation="bicubic", gp="avg")},
        {"arch": "resnet18", "num_classes": 4, "img_size": (96, 96), "mean": (0.5, 0.5, 0.5), "crop_pct": 0.9, "interpolation": "bicubic", "global_pool": "avg"},
    ),
    "lightning": (
        {"hyper_parameters": {"model_name": "vit_tiny_patch16_224", "in_channels": 1, "image_size": (64, 96), "lr": 0.1}},
        {"arch": "vit_tiny_patch16_224", "in_chans": 1, "img_size": (64, 96)},
    ),
    "timm's configuration": (
        {"pretrained_cfg": {"input_size": (4, 128, 96), "mean": (0.5, 0.4, 0.3, 0.2)}},
        {"img_size": (128, 96), "in_chans": 4, "mean": (0.5, 0.4, 0.3, 0.2)},
    ),
    "NumPy": ({"mean": np.array([0.5, 0.25, 0.5]), "num_classes": np.int64(3)}, {"mean": (0.5, 0.25, 0.5), "num_classes": 3}),
    "not valid": ({"arch": 3, "num_classes": -1, "img_size": "big", "mean": [float("nan")], "crop_pct": 1 << 4000, "std": ["x"]}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("beside", "hints"), HINTED.values(), ids=HINTED)
def test_hints_at_the_architecture_are_kept(beside, hints, state, tmp_path):
    assert read_checkpoint(saved({"state_dict": state, **beside}, tmp_path / "w.pth")).hints == hints


def test_metadata_of_safetensors_give_names_and_hints(state, tmp_path):
    metadata = {"format": "pt", "class_to_idx": json.dumps(INDEX), "mean": "[0.5, 0.5, 0.5]", "input_size": "96", "arch": "resnet18"}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata)
    found = read_checkpoint(tmp_path / "w.safetensors")
    assert same(found.state, state)
    assert found.class_names == NAMES
    assert found.hints == {"mean": (0.5, 0.5, 0.5), "img_size": (96, 96), "arch": "resnet18"}


# Checkpoints in several files.


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_in_several_files_is_read(kind, state, tmp_path):
    stem, _, suffix = kind.partition(".")
    parts = {f"{stem}-{k}-of-2.{suffix}": dict(list(state.items())[k::2]) for k in range(2)}
    for name, tensors in parts.items():
        (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(tensors, tmp_path / name)
    index = tmp_path / f"{kind}.index.json"
    places = {key: name for name, tensors in parts.items() for key in tensors}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    found = read_checkpoint(index).state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert sorted(file.name for file in files_of(index)) == sorted([index.name, *parts])
    with pytest.raises(ModelError, match="an index names a single set of weights"):
        read_checkpoint(f"{index}#ema")
    (tmp_path / next(iter(parts))).unlink()
    with pytest.raises(ModelError, match=r"names 2 parts, of which 1 are not beside it \(.*-0-of-2"):
        read_checkpoint(index)


@pytest.mark.parametrize("content", ["{}", "no", "[" * 100_000, '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "m.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"is not the index of a split checkpoint"):
        read_checkpoint(tmp_path / "m.index.json")


@pytest.mark.parametrize("name", ["../w.pth", "/etc/passwd", "a/w.pth", "..", "a\\w.pth", "m.index.json", ""])
def test_an_index_that_leads_elsewhere_is_refused(name, state, tmp_path):
    (tmp_path / "f").mkdir()
    saved(state, tmp_path / "w.pth")
    index = tmp_path / "f" / "m.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="which is not a file beside it"):
        read_checkpoint(index)


# Other formats.


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


OTHERS = {
    "empty": ("w.pth", b"", "empty"),
    "LFS pointer": ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer .*git lfs pull"),
    "web page": ("w.pth", b"\n <!DOCTYPE html><html>404</html>", "a web page"),
    "text": ("w.safetensors", b"hello", "a text file"),
    "OpenVINO": ("w.pth", b"<?xml version='1.0'?><net name='x'>", "OpenVINO"),
    "Keras": ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 file, such as weights of Keras; .*PyTorch"),
    "Keras 3": ("w.pth", zipped("config.json", "metadata.json", "model.weights.h5"), "a model of Keras"),
    "ONNX": ("w.onnx", b"\x08\x07\x12\x07pytorch\x1a\x05", "ONNX"),
    "ONNX by another name": ("w.bin", b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\xff", "ONNX"),
    "SavedModel": ("saved_model.pb", b"\x08\x01\x12\xff\x00", "TensorFlow"),
    "SavedModel in a zip": ("w.pt", zipped("m/saved_model.pb", "m/variables/x"), "SavedModel"),
    "TensorFlow Lite": ("w.bin", b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
    "GGUF": ("w.bin", b"GGUF\x03\0\0\0", "GGUF"),
    "NumPy": ("w.bin", b"\x93NUMPY\x01\0", "NumPy array"),
    "NumPy archive": ("w.pt", zipped("a.npy", "b.npy"), "NumPy arrays"),
    "gzip": ("w.pth", b"\x1f\x8b\x08\0\0\0", "compressed with gzip; unpack it"),
    "folder": ("w.pth", zipped("run/a.txt", "run/best.pth"), "zip file of a folder with 'run/best.pth'; unpack it"),
    "zip": ("w.pth", zipped("a.txt"), "a zip file that PyTorch did not write"),
    "picture": ("w.pth", b"\x89PNG\r\n\x1a\n", "a picture"),
}


@pytest.mark.parametrize(("name", "content", "says"), OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_format_is_refused_by_its_name(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} is not a checkpoint that PyTorch can read: it is .*{says}"):
        read_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 3, 32, 32))], ids=["script", "trace"])
def test_torchscript_is_refused_by_its_name(make, tmp_path):
    torch.jit.save(make(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"it is a TorchScript program .*torch\.jit\.load\(FILE\) with torch\.save\(module\.state_dict\(\)"
    ):
        read_checkpoint(tmp_path / "w.pt")


def test_an_exported_program_is_refused_by_its_name(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.rand(1, 3),)), tmp_path / "w.pt2")
    with pytest.raises(ModelError, match=r"it is a program of torch\.export, .*torch\.export\.load\(FILE\)"):
        read_checkpoint(tmp_path / "w.pt2")


@pytest.mark.parametrize(
    ("names", "says"), [(("sys_info", "pickle", "storages", "tensors"), "PyTorch before version"), (("a.pth",), "a tar archive; unpack")]
)
def test_a_tar_archive_is_refused_by_its_kind(names, says, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        for name in names:
            archive.add(tmp_path / "x", name)
    with pytest.raises(ModelError, match=rf"it is .*{says}"):
        read_checkpoint(tmp_path / "w.tar")


def test_weights_of_openvino_are_refused_by_the_graph_beside_them(tmp_path):
    (tmp_path / "w.xml").write_text("<?xml version='1.0'?><net/>")
    (tmp_path / "w.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ModelError, match=r"w\.bin is not a checkpoint .* the weights of an OpenVINO model"):
        read_checkpoint(tmp_path / "w.bin")


def test_a_pickled_estimator_is_refused_by_its_class(tmp_path):
    linear_model = pytest.importorskip("sklearn.linear_model")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(linear_model.LogisticRegression()))
    with pytest.raises(
        ModelError, match=r"w\.pkl holds a pickled sklearn\.linear_model\._logistic\.LogisticRegression; loading it could run code"
    ):
        read_checkpoint(tmp_path / "w.pkl")


def test_a_file_of_torch_with_the_name_of_safetensors_and_the_reverse(state, tmp_path):
    torch.save(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"torch\.save wrote; give it a name that ends in \.pth"):
        read_checkpoint(tmp_path / "w.safetensors")
    safetensors.torch.save_file(state, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth").state, state)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("length", [0x280, 0x480, 0x708, 0x808, 0x120708, 0x5048, 0x8B18], ids=hex)
def test_the_length_of_a_header_is_no_mark_of_another_format(length, name, tmp_path):
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    (tmp_path / name).write_bytes(struct.pack("<Q", length) + header + struct.pack("<ff", 1.5, 2.5))
    assert safetensors.torch.load((tmp_path / name).read_bytes())["a.weight"].tolist() == [1.5, 2.5]
    assert read_checkpoint(tmp_path / name).state["a.weight"].tolist() == [1.5, 2.5]
