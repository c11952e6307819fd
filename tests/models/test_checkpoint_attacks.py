"""Hostile checkpoints run no code and take neither memory nor time, whatever opcodes they use."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.nets import Plain, made
from support.waiting import counted_calls, ends
from torch import Tensor

from attrlib.errors import ModelError
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.files import pickles
from attrlib.models.files.pickles import MOST_BYTES, MOST_STEPS, DamagedError, read_pickle
from attrlib.models.files.torch_files import open_torch_file

MOST_MEMORY = 600 << 20


@pytest.fixture
def state() -> dict[str, Tensor]:
    return made(Plain).state_dict()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def beside(program: bytes, state: dict[str, Tensor], path: Path) -> Path:
    """Write a checkpoint whose pickle also holds the value of a program, under the key `x`."""
    plain = path.with_suffix(".plain")
    torch.save({"state_dict": state}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/data.pkl"):
                assert content.endswith(b"s.")
                content = content[:-1] + text("x") + program + b"s."
            target.writestr(name, content)
    return path


def calls(function: str, argument: str) -> dict[str, bytes]:
    """Return programs that call `function` of `module function` with one text, in every way that the machine knows."""
    module, _, name = function.partition(" ")
    args = text(argument) + b"\x85"
    reach = f"c{module}\n{name}\n".encode()
    return {
        "REDUCE": reach + args + b"R",
        "NEWOBJ": reach + args + b"\x81",
        "NEWOBJ_EX": reach + args + b"}\x92",
        "OBJ": b"(" + reach + text(argument) + b"o",
        "INST": b"(" + text(argument) + f"i{module}\n{name}\n".encode(),
        "STACK_GLOBAL": text(module) + text(name) + b"\x93" + args + b"R",
        "BUILD": reach + b")R" + b"}" + text("__setstate__") + reach + b"sb" + args + b"b",
        "rebuilt from its type": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + reach + b"ctorch\nTensor\n" + args + b"}tR",
        "reconstructed": b"ccopy_reg\n_reconstructor\n" + reach + b"cbuiltins\nobject\n" + text(argument) + b"\x87R",
        "copyreg": b"ccopy_reg\n__newobj__\n" + reach + text(argument) + b"\x86R",
        "attribute": b"cbuiltins\ngetattr\n" + f"c{module}\n{name}\n".encode() + text("__call__") + b"\x86R" + args + b"R",
        "default": b"ccollections\ndefaultdict\n" + reach + b"\x85R",
        "mapped": b"cbuiltins\nmap\n" + reach + b"](" + text(argument) + b"e\x86R",
    }


@pytest.mark.parametrize(
    "function",
    [
        "posix system",
        "os system",
        "builtins eval",
        "builtins exec",
        "torch load",
        "subprocess check_output",
        "attrlib.models.zoo load_model",
    ],
)
@pytest.mark.parametrize("way", calls("a b", ""))
def test_no_opcode_calls_what_a_pickle_names(way, function, state, tmp_path):
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if "system" in function or "check" in function else f"open({str(marker)!r}, 'w')"
    file = beside(calls(function, argument)[way], state, tmp_path / "w.pth")
    found = read_checkpoint(file)
    assert all(torch.equal(found.state[key], value) for key, value in state.items())
    assert not marker.exists()


@pytest.mark.parametrize("way", ["REDUCE", "OBJ", "INST", "STACK_GLOBAL"])
def test_pythons_own_reader_runs_the_same_programs(way, tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(b"\x80\x04" + calls("posix system", f"touch {marker}")[way] + b".")
    assert marker.exists()


def test_no_class_of_the_process_is_changed(state, tmp_path):
    programs = [
        b"ccollections\nOrderedDict\n}" + text("x") + b"K\x01sb",
        b"cargparse\nNamespace\nN}" + text("x") + b"K\x01s\x86b",
        b"ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__defaults__") + b")s\x86b",
        b"ctorch\nTensor\n}" + text("x") + b"K\x01sb",
    ]
    before = (torch._utils._rebuild_tensor_v2.__defaults__, dir(torch.Tensor))
    for number, program in enumerate(programs):
        read_checkpoint(beside(program, state, tmp_path / f"{number}.pth"))
    assert (torch._utils._rebuild_tensor_v2.__defaults__, dir(torch.Tensor)) == before


def test_no_module_is_imported(state, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    found = read_checkpoint(beside(b"cevil_module\nThing\n)R", state, tmp_path / "w.pth"))
    assert "'x' (evil_module.Thing)" in found.notes[0]
    assert not (tmp_path / "marker").exists()


# Memory and time.


BOMBS: dict[str, Callable[[], bytes]] = {
    "memo": lambda: b"N" + b"r\xff\xff\xff\x7f" + b"N" + b"r\xff\xff\xff\xff" + b".",
    "bytes": lambda: b"\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "text": lambda: b"\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "long text": lambda: b"X\xff\xff\xff\xffx.",
    "byte array": lambda: b"\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "integer": lambda: b"\x8b\xff\xff\xff\x7f\x01.",
    "negative length": lambda: b"\x8b\xff\xff\xff\xff.",
    "frame": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n.",
    "endless line": lambda: b"c" + b"a" * 10_000_000,
    "buffers": lambda: b"\x97.",
    "extension": lambda: b"\x82\x01.",
    "empty stack": lambda: b"0.",
    "marks": lambda: b"(" * 200_000 + b".",
    "name": lambda: text("a" * 1_000_000) + b"q\x00" + text("b") + b"\x93" + b"h\x00h\x00\x93" * 100_000 + b".",
    "growing name": lambda: b"ca\nb\n" + b"cbuiltins\ngetattr\nq\x00" + b"0" + (b"h\x002" + text("c" * 200) + b"\x86R") * 100 + b".",
    "copies of text": lambda: text("a" * 1_000_000) + b"q\x00" + b"c_codecs\nencode\nq\x01" + b"]" + b"(" + b"h\x01h\x00\x85R" * 2_000 + b"e.",
    "copies of a list": lambda: b"]q\x00(" + b"N" * 100_000 + b"e" + b"c__builtin__\nset\nq\x01" + b"](" + b"h\x01h\x00\x85R" * 100_000 + b"e.",
    "copies of pairs": lambda: b"]q\x00(" + b"".join(b"J" + struct.pack("<i", k) + b"N\x86" for k in range(20_000)) + b"e" + b"ccollections\nOrderedDict\nq\x01" + b"](" + b"h\x01h\x00\x85R" * 100_000 + b"e.",
    "copies of an array": lambda: b"cnumpy.core.multiarray\n_reconstruct\n)Rq\x00" + text("a" * 1_000_000) + b"q\x010" + b"h\x00(K\x01K\x01\x85NNh\x01tb" * 5_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_small_pickle_takes_little_memory(bomb):
    program = bomb()
    assert len(program) < 11 << 20
    tracemalloc.start()
    try:
        with ends(), suppress(DamagedError):
            read_pickle(io.BytesIO(program))
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "bomb", ["bytes", "text", "byte array", "integer", "copies of text", "copies of a list", "copies of pairs", "copies of an array"]
)
def test_a_bomb_is_refused(bomb):
    with pytest.raises(DamagedError):
        read_pickle(io.BytesIO(BOMBS[bomb]()))


def test_the_number_of_objects_is_bounded(monkeypatch):
    assert MOST_STEPS == 5_000_000
    monkeypatch.setattr(pickles, "MOST_STEPS", 100)
    assert read_pickle(io.BytesIO(b"]" + b"Na" * 49 + b".")) == [None] * 49
    with pytest.raises(DamagedError, match="more than 100 objects"):
        read_pickle(io.BytesIO(b"]" + b"Na" * 50 + b"."))


def test_the_length_of_a_pickle_is_bounded(monkeypatch, state, tmp_path):
    assert MOST_BYTES == 1 << 28
    monkeypatch.setattr(pickles, "MOST_BYTES", 1000)
    assert read_pickle(io.BytesIO(text("a" * 900) + b".")) == "a" * 900
    with pytest.raises(DamagedError):
        read_pickle(io.BytesIO(text("a" * 1100) + b"."))


@pytest.mark.parametrize(
    "open_one", [b"]", b"}", b"ccollections\nOrderedDict\n)R", b"ca\nb\n)R"], ids=["list", "dict", "ordered", "object"]
)
def test_deep_nesting_does_no_harm(open_one, state, tmp_path):
    close = b"a" if open_one == b"]" else b"s"
    depth = 50_000
    program = (open_one + (b"" if close == b"a" else b"K\x01")) * depth + b"N" + close * depth
    with ends():
        found = read_checkpoint(beside(program, state, tmp_path / "w.pth"))
    assert found.state.keys() == state.keys()


class Unknown:
    pass


def test_lists_of_the_same_lists_are_walked_once(state, tmp_path):
    """The object is behind a hundred million paths to the same list, more than are followed."""
    wide: list = []
    for _ in range(4):
        wide = [wide] * 100
    torch.save({"state_dict": state, "wide": wide, "deep": [[[[[Unknown()]]]]]}, tmp_path / "w.pth")
    with ends():
        found = read_checkpoint(tmp_path / "w.pth")
    assert "'deep' (" in found.notes[0]


def test_many_keys_of_one_object_are_walked_once(state, tmp_path):
    shared = [[] for _ in range(1000)]
    small, large = ({f"k{k}": shared for k in range(count)} | {"state_dict": state} for count in (10, 1000))
    counts = []
    for content in (small, large):
        torch.save(content, tmp_path / "w.pth")
        with counted_calls() as counted:
            read_checkpoint(tmp_path / "w.pth")
        counts.append(counted.count)
    assert counts[1] < 10 * counts[0]


def test_wrappers_that_hold_each_other_are_searched_once(tmp_path):
    content: dict[str, object] = {}
    content |= dict.fromkeys(("model", "net", "ema", "state_dict", "teacher", "student", "module", "weights", "params"), content)
    torch.save(content, tmp_path / "w.pth")
    with ends(), pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("multiple", [(1 << 61) - 1, ((1 << 61) - 1) << 4])
def test_keys_with_the_same_hash_take_no_time(multiple):
    program = b"}(" + b"".join(b"\x8a\x10" + (k * multiple).to_bytes(16, "little") + b"N" for k in range(1, 20_000)) + b"u."
    with ends():
        read = read_pickle(io.BytesIO(program))
    assert len({hash(key) for key in read}) > 19_000


def test_long_names_are_cut_in_messages(state, tmp_path):
    torch.save({"state_dict": state, "n" * 100_000: made(Plain)}, tmp_path / "w.pth")
    assert len(read_checkpoint(tmp_path / "w.pth").notes[0]) < 400
    torch.save({"n" * 100_000 + ".weight": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        read_checkpoint(tmp_path / "w.pth")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["a\nb.weight", "\x1b[31m.weight", "\udcff.weight", "a" * 501])
def test_names_that_would_spoil_a_message_are_refused(key, tmp_path):
    torch.save({key: torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="is not the name of a tensor") as caught:
        read_checkpoint(tmp_path / "w.pth")
    assert str(caught.value).isprintable()


def test_notes_are_fit_to_be_printed(state, tmp_path):
    program = text("a\nb\x1b[31m") + text("c\r") + b"\x93)R"
    (note,) = read_checkpoint(beside(program, state, tmp_path / "w.pth")).notes
    assert note.isprintable()
    assert "'x' (a?b?[31m.c?)" in note


# Archives.


def rewritten(path: Path, change: Callable[[bytes], bytes], tensors: object) -> Path:
    """Save tensors with the pickle changed."""
    torch.save(tensors, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(source.read(name)) if name.endswith("/data.pkl") else source.read(name))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"M\xe8\x03", b"J\xff\xff\xff\x7f"),  # 1000 values in a storage of fewer
        (b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00STORAGE"),
        (b"FloatStorage", b"OtherStorage"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
        (b"cpu", b"cp\xff"),
    ],
)
def test_a_description_of_tensors_that_does_not_fit_the_file_is_refused(old, new, tmp_path):
    file = rewritten(tmp_path / "w.pth", lambda content: content.replace(old, new), {"a.weight": torch.arange(1000.0)})
    with pytest.raises(ModelError, match=r"w\.pth (is not a checkpoint|does not hold|holds)"):
        read_checkpoint(file)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    content = {"a.weight": torch.arange(1000.0)[990:]}
    file = rewritten(tmp_path / "w.pth", lambda pickle: pickle.replace(b"M\xde\x03", b"M\xdf\x03"), content)
    with pytest.raises(ModelError, match="a tensor reaches beyond the end of its values"):
        read_checkpoint(file)


def test_a_changed_byte_of_the_weights_is_noticed(tmp_path):
    torch.save({"a.weight": torch.full((1000,), 7.25)}, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.index(struct.pack("<f", 7.25) * 4) + 401] ^= 1
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pth is not a checkpoint that PyTorch can read, or is cut off \(Bad CRC"):
        read_checkpoint(tmp_path / "w.pth")


def test_only_the_weights_that_are_used_are_read(state, tmp_path, monkeypatch):
    torch.save({"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(10_000_000)}}}}, tmp_path / "w.pth")
    largest = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **rest: largest.append(size) or real(size, **rest))
    read_checkpoint(tmp_path / "w.pth")
    assert 0 < max(largest) < 1_000_000


def test_a_directory_of_countless_entries_is_not_read(tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    torch.save({"a.weight": torch.zeros(3)}, file)
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(100):
            archive.writestr(f"{number}", b"")
    monkeypatch.setattr("attrlib.models.files.torch_files._LONGEST_DIRECTORY", 4000)
    with pytest.raises(ModelError, match="its directory is longer"):
        read_checkpoint(file)


def test_a_pipe_and_a_link_to_nothing_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    for name in ("pipe.pth", "link.pth", "loop.pth"):
        with ends(), pytest.raises(ModelError, match="there is no file"):
            read_checkpoint(tmp_path / name)


def test_the_old_format_is_checked_as_the_new_one(state, tmp_path):
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with open_torch_file(tmp_path / "w.pth") as opened:
        places = list(opened.places.values())
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[places[0] - 8 : places[0]] = struct.pack("<q", 1 << 50)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match="the length of a tensor is damaged"):
        read_checkpoint(tmp_path / "w.pth")
