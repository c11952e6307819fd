"""Maps made elsewhere: scored as the method that made them, matched to images, and refused with the reason where they do not fit."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import h5py
import numpy as np
import pytest
import torch
import zarr
from support.runs import SIZE, classifier, count_calls, pictures
from typer.testing import CliRunner

import attrlib.cli.score
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.maps import files, is_kept, keep, open_maps, uploads
from attrlib.engine.foreign import matched, resolved
from attrlib.errors import AttrlibError, DataError, MethodError, ProtocolError, SpecError
from attrlib.models import EMBEDDED
from attrlib.protocols import PROTOCOLS, create
from attrlib.specs import MethodSpec, ProtocolSpec
from attrlib.specs.maps import maps_spec, path_of
from attrlib.store import Store, open_store

pytestmark = pytest.mark.usefixtures("own_cache")
MODEL = classifier()
PROTOCOLS_OF_MAPS = [
    "sds:grid=2",
    "ids:steps=4",
    "infidelity:samples=3:noise=0.5",
    "compactness",
    "entropy",
    "sensitivity-n:samples=4",
    "mufidelity:samples=4",
]
IMAGES = 10


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return load_dataset(str(pictures(tmp_path / "pictures", count=2)))


@pytest.fixture
def maps(data: Dataset) -> np.ndarray:
    """The maps of IxG of all images in the order of the data, (N,h,w)."""
    images = torch.stack([MODEL.preprocess(item) for item in data])
    return attrlib.explain(MODEL, images, "IxG", [data.label(k) for k in range(len(data))]).maps[:, 0].numpy()


def names_of(data: Dataset) -> list[str]:
    return [data.item_name(k) for k in range(len(data))]


def save(path: Path, maps: np.ndarray, names: list[str]) -> Path:
    """Save maps in the format that the suffix of the path says."""
    if path.suffix == ".npy":
        np.save(path, maps)
    elif path.name == "stack.npz":
        np.savez_compressed(path, maps=maps[::-1], names=np.array(names[::-1]))
    elif path.name == "arrays.npz":
        np.savez(path, **dict(zip(names[::-1], maps[::-1], strict=True)))
    elif path.name == "numbers.npz":
        np.savez(path, *maps)
    elif path.name == "stack.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("maps", data=maps[::-1], compression="gzip", chunks=(1, *maps.shape[1:]))
            file["names"] = names[::-1]
    elif path.name == "arrays.hdf5":
        with h5py.File(path, "w") as file:
            for name, one in zip(names, maps, strict=True):
                file[name.removesuffix(".png")] = one
    elif path.name == "stack.zarr":
        zarr.save_array(path, maps)
    elif path.name.startswith("group"):
        group = zarr.open_group(path, mode="w", zarr_format=2 if "2" in path.name else 3)
        for name, one in zip(names, maps, strict=True):
            group.create_array(name.removesuffix(".png"), data=one)
    else:
        for name, one in zip(names, maps, strict=True):
            file = path / Path(name).with_suffix(".npy")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, one)
    return path


FORMATS = (
    "stack.npy",
    "stack.npz",
    "arrays.npz",
    "numbers.npz",
    "stack.h5",
    "arrays.hdf5",
    "stack.zarr",
    "group.zarr",
    "group2.zarr",
    "folder",
)


def read_all(path: Path, data: Dataset) -> list[np.ndarray]:
    found = matched(resolved(maps_spec(path), data), data)
    return [found.read(found.places[k], MODEL).numpy() for k in range(len(data))]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_maps(tmp_path: Path, data: Dataset, maps: np.ndarray, name: str) -> None:
    path = save(tmp_path / name, maps, names_of(data))
    assert np.array_equal(read_all(path, data), maps)
    assert matched(resolved(maps_spec(path), data), data).by_name == (name not in ("stack.npy", "numbers.npz", "stack.zarr"))


@pytest.mark.parametrize("name", ["stack.npz", "folder"])
def test_maps_of_a_method_score_as_the_method_bit_for_bit(tmp_path: Path, data: Dataset, maps: np.ndarray, name: str) -> None:
    path = save(tmp_path / name, maps, names_of(data))
    result = attrlib.compare(PROTOCOLS_OF_MAPS, MODEL, ["IxG"], data, maps=path, seed=3)
    assert not result.refused
    for protocol in result.protocols:
        own, foreign = result.of_protocol(protocol).values()
        assert np.array_equal(own.values, foreign.values, equal_nan=True), protocol
        assert own.ids == foreign.ids
    (note,) = [note for note in result.notes if "matched by name" in note]
    assert "of both signs" in note


def test_protocols_that_judge_where_the_map_lies_take_them(tmp_path: Path) -> None:
    model, data = attrlib.load_model("birds_resnet10", device="cpu"), load_dataset("birds")
    names = {f"{k}": np.zeros((7, 7), np.float32) + np.eye(7, dtype=np.float32) for k in range(len(data))}
    np.savez(tmp_path / "maps.npz", **names)
    result = attrlib.compare(["pointing", "mass", "rank", "energy", "parts"], model, [], data, maps=tmp_path / "maps.npz", limit=3)
    assert [str(protocol) for protocol in result.protocols] == ["pointing", "mass", "rank", "energy", "parts"]
    assert not result.refused


def test_other_protocols_are_refused_with_the_reason(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    path = save(tmp_path / "stack.npy", maps, [])
    others = ["sensitivity:samples=2", "robustness:tolerance=1", "randomisation:stages=1", "gridpg:confidence=0", "ids:steps=3:update=true"]
    result = attrlib.compare(["sds:grid=2", *others], MODEL, [], data, maps=path)
    assert [str(protocol) for protocol in result.protocols] == ["sds:grid=2"]
    reasons = {str(protocol): why for protocol, _, why in result.refused}
    assert list(reasons) == others
    for why, words in zip(
        reasons.values(), ("slightly changed", "changed images", "the model with", "grids", "partly deleted"), strict=True
    ):
        assert f"needs maps of {words}" in why
        assert "maps made elsewhere are those of the images as they are" in why
    with pytest.raises(ProtocolError, match="needs maps of grids"):
        attrlib.score("gridpg", MODEL, maps=path, data=data)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_that_names_no_other_maps_asks_for_none(name: str) -> None:
    """Protocols whose cost is at most one map of the image's size ask for nothing else, and all others say what they need."""
    cost = create(ProtocolSpec(name)).cost
    assert bool(create(ProtocolSpec(name)).other_maps) == (cost.inputs > 1 or (cost.area, cost.targets) != (1, 1))


def test_nothing_is_computed_twice_and_a_changed_file_is_scored_again(
    tmp_path: Path, data: Dataset, maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, path = count_calls(monkeypatch), save(tmp_path / "stack.npy", maps, [])
    first = attrlib.compare(["sds:grid=2"], MODEL, [], data, maps=path)
    again = attrlib.compare(["sds:grid=2"], MODEL, [], data, maps=path)
    assert (first.computed, again.computed, again.cached) == (IMAGES, 0, IMAGES)
    # The same maps elsewhere are the same maps.
    assert attrlib.compare(["sds:grid=2"], MODEL, [], data, maps=save(tmp_path / "moved.npy", maps, [])).computed == 0
    save(path, -maps, [])
    flipped = attrlib.score("sds:grid=2", MODEL, maps=path, data=data)
    assert np.array_equal(flipped.values, -next(iter(first.scores.values())).values, equal_nan=True)
    assert not calls, "no map is computed"


def test_renamed_images_are_matched_again(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    path = save(tmp_path / "stack.npy", maps, [])
    before = attrlib.score("sds:grid=2", MODEL, maps=path, data=data)
    # The images of each class change places, so each has now the map of the other.
    for k in range(5):
        folder = tmp_path / "pictures" / str(k)
        (folder / "0.png").rename(folder / "2.png")
    after = attrlib.score("sds:grid=2", MODEL, maps=path, data=str(tmp_path / "pictures"))
    values = dict(zip(before.ids, before.values, strict=True))
    assert any(values[name] != value for name, value in zip(after.ids, after.values, strict=True))
    swapped = maps.reshape(5, 2, SIZE, SIZE)[:, ::-1].reshape(maps.shape)
    expected = attrlib.score("sds:grid=2", MODEL, maps=save(tmp_path / "swapped.npy", swapped, []), data=str(tmp_path / "pictures"))
    assert sorted(expected.values) == sorted(before.values)


def test_maps_that_change_during_a_run_are_refused(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    path = save(tmp_path / "stack.npy", maps, [])
    method = resolved(maps_spec(path), data)
    save(path, -maps, [])
    with pytest.raises(DataError, match="have changed since; start the run again"):
        resolved(method, data)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m[:, None], lambda m: m),
        (lambda m: m[..., None], lambda m: m),
        (lambda m: np.stack([m, 2 * m, -m], 1), lambda m: 2 * m),
        (lambda m: np.stack([m, 2 * m, -m], 3), lambda m: 2 * m),
        (lambda m: m.astype(np.float64), lambda m: m),
        (lambda m: np.asfortranarray(m), lambda m: m),
        (lambda m: m > 0, lambda m: (m > 0).astype(np.float32)),
        (lambda m: m.reshape(-1, 8, 2, 8, 2).mean((2, 4)), lambda m: m.reshape(-1, 8, 2, 8, 2).mean((2, 4))),
    ],
)
def test_channels_types_and_lower_resolutions(tmp_path: Path, data: Dataset, maps: np.ndarray, change: Any, expected: Any) -> None:
    path = save(tmp_path / "stack.npy", change(maps), [])
    read = np.stack(read_all(path, data))
    assert read.dtype == np.float32
    assert np.allclose(read, expected(maps), rtol=1e-6, atol=1e-7)


def with_nan(maps: np.ndarray, rows: slice) -> np.ndarray:
    maps = maps.copy()
    maps[rows, 3, 3] = np.nan
    return maps


BAD: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda m: m[:-1], "has 9 maps, but .* has 10 images; without names, give one map for each image"),
    (lambda m: m[0], "has shape .16, 16.; save maps as .images, height, width."),
    (lambda m: m.repeat(2, 1), "has 32 x 16 px, but .* sees 16 x 16; make the maps of the images as"),
    (lambda m: m.repeat(2, 1).repeat(2, 2), "has 32 x 32 px"),
    (lambda m: m[:, :8], "has 8 x 16 px"),
    (lambda m: m[:, None].repeat(5, 1), r"shape \(5, 16, 16\), and its channels are neither 1 nor the 3"),
    (lambda m: (np.stack([m] * 3, 3) * 255).astype(np.uint8), "holds coloured pictures .uint8"),
    (lambda m: m.astype(np.complex64), "values of type complex64, which are not numbers"),
    (lambda m: with_nan(m, slice(None)), "all maps of .* have NaN or infinite values"),
    (lambda m: m[:, :0], "has shape .10, 0, 16."),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_each_bad_array_has_one_clear_error_and_the_run_goes_on(
    tmp_path: Path, data: Dataset, maps: np.ndarray, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    path = save(tmp_path / "stack.npy", change(maps), [])
    with pytest.raises(AttrlibError, match=message) as caught:
        attrlib.score("sds:grid=2", MODEL, maps=path, data=data)
    assert "stack.npy" in str(caught.value)
    if "complex" not in message and "has shape" not in message:
        result = attrlib.compare(["sds:grid=2"], MODEL, ["IxG"], data, maps=path)
        assert [str(method) for _, method in result.scores] == ["IxG"]
        assert [why for _, _, why in result.refused] == [str(caught.value)]


def test_a_few_broken_maps_are_undefined_and_said(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    maps = -np.abs(with_nan(maps, slice(2, 4)))
    maps[5] = -1
    result = attrlib.compare(["sds:grid=2", "entropy"], MODEL, [], data, maps=save(tmp_path / "stack.npy", maps, []))
    undefined = [score.undefined for score in result.scores.values()]
    assert undefined == [3, 2]
    text = " ".join(result.notes)
    for words in (
        "2 of 10 maps have NaN",
        "1 of 10 maps are constant",
        "flip the sign",
        "matched by place: the first is",
        "0/0.png",
        "4/1.png",
    ):
        assert words in text


def test_names_that_do_not_fit_are_refused(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    names = names_of(data)
    cases = {
        "other": ([f"x{k}" for k in range(IMAGES)], "none of the names in .*'x0', is that of an image of .* 'images/|none of the names"),
        "missing": ([*names[:-1], "x"], "has no map of '4/1.png'; add it, or score a data set of the other images"),
        "several": (["0", "1"], "fits both '0/0.png' and '1/0.png'; name the maps with the folders"),
        "twice": ([*names[:-1], "0/0.jpg"], "has two maps named '0/0'"),
    }
    for case, (own, message) in cases.items():
        path = tmp_path / f"{case}.npz"
        np.savez(path, maps=maps[: len(own)], names=np.array(own))
        with pytest.raises(DataError, match=message):
            attrlib.score("sds:grid=2", MODEL, maps=path, data=data)
    # Those that are left out by the limit may miss.
    path = tmp_path / "missing.npz"
    seed = next(seed for seed in range(20) if IMAGES - 1 not in data.order(seed)[:3])
    assert len(attrlib.score("sds:grid=2", MODEL, maps=path, data=data, limit=3, seed=seed).values) == 3


# Untrusted files -------------------------------------------------------------------------------------------------------


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_no_file_runs_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    objects = np.array([Touch(trap)], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", maps=objects)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Touch(trap)))
    folder = tmp_path / "d.zarr"
    zarr.save_array(folder, np.zeros((2, 4, 4), np.float32), zarr_format=2)
    metadata = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps(metadata | {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None}))
    (folder / "0.0.0").write_bytes(pickle.dumps(Touch(trap)))
    messages = (
        "Python objects, which are not read",
        "Python objects",
        "is not a file of maps",
        "compressed with pickle, which is not read",
    )
    for name, message in zip(("a.npy", "b.npz", "c.npy", "d.zarr"), messages, strict=True):
        with pytest.raises(DataError, match=message):
            open_maps(str(tmp_path / name))
    assert not trap.exists()


def test_claims_of_large_arrays_are_refused_before_they_are_read(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 300, 300)}
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("maps.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"save more than 1024 MiB as \.npy"):
        open_maps(str(tmp_path / "bomb.npz"))
    with (tmp_path / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (2, 10**5, 10**5)})
    with pytest.raises(DataError, match="larger than any model's input"):
        open_maps(str(tmp_path / "huge.npy"))
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("maps", (10**6, 300, 300), "f4", chunks=(10**4, 300, 300))
    with pytest.raises(DataError, match="chunks of more than 1024 MiB"):
        open_maps(str(tmp_path / "huge.h5"))


def test_arrays_of_other_files_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["maps"] = np.zeros((2, 4, 4))
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["maps"] = h5py.ExternalLink("secret.h5", "/maps")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((2, 4, 4), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "maps", (2, 4, 4))
        file.create_virtual_dataset("maps", layout)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("maps", (2, 4, 4), "f8", external=[(str(tmp_path / "secret.h5"), 0, 256)])
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        file["a"] = np.zeros((4, 4))
        file["again"] = file["/"]
    for name, message in (
        ("linked", "is a link"),
        ("virtual", "lies in another file"),
        ("raw", "lies in another file"),
        ("loop", "nested"),
    ):
        with pytest.raises(DataError, match=message):
            open_maps(str(tmp_path / f"{name}.h5"))


@pytest.mark.parametrize("name", ["stack.npy", "stack.npz", "stack.h5"])
@pytest.mark.parametrize("keep", [12, 0.5, 0.9])
def test_cut_files_have_a_clear_error(tmp_path: Path, data: Dataset, maps: np.ndarray, name: str, keep: float) -> None:
    path = save(tmp_path / name, maps, names_of(data))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep) if keep > 1 else int(keep * len(content))])
    with pytest.raises(DataError, match=rf"{name} (cannot be read|is damaged)"):
        read_all(path, data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file or directory; give the path of .npy"),
        (lambda path: path.mkdir(), "holds no .npy files; save one for each image"),
        (lambda path: path.write_text("x"), "is not a file of maps; give .npy"),
        (lambda path: path.write_bytes(b""), "is not a file of maps"),
        (lambda path: np.savez(path.open("wb")), "holds no arrays|cannot be read"),
    ],
)
def test_what_is_no_file_of_maps_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "x.npy")
    with pytest.raises(DataError, match=message):
        open_maps(str(tmp_path / "x.npy"))


@pytest.mark.parametrize(("name", "package"), [("stack.h5", "h5py"), ("stack.zarr", "zarr")])
def test_a_missing_package_is_named(
    tmp_path: Path, data: Dataset, maps: np.ndarray, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    path = save(tmp_path / name, maps, names_of(data))
    files._opened.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DataError, match=rf"needs {package}; run pip install attrlib\[maps\], or save the maps as .npz"):
        open_maps(str(path))


# The ways to name them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a:b.npz", "a,b.npz", "a%3Ab=c@d.npz", ":target=x.npz", "ä b.npz"])
def test_any_path_survives_the_text_form(tmp_path: Path, name: str) -> None:
    spec = maps_spec(tmp_path / name)
    assert MethodSpec.parse(str(spec)) == spec
    assert attrlib.specs.parse_methods(f"IxG,{spec}")[1] == spec
    assert path_of(spec) == str(tmp_path / name)


def test_maps_can_be_scored_but_not_computed_or_listed(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    path = save(tmp_path / "stack.npy", maps, [])
    with pytest.raises(MethodError, match="can be scored, but not computed"):
        attrlib.explain(MODEL, torch.zeros(1, 3, SIZE, SIZE), maps_spec(path))
    assert "maps" not in {info.name for info in attrlib.list_methods()}
    for wrong in ({"method": "IxG", "maps": path}, {}):
        with pytest.raises(SpecError, match="give method or maps=, and not both"):
            attrlib.score("sds", MODEL, data=data, **wrong)
    with pytest.raises(SpecError, match="no data given"):
        attrlib.score("sds", MODEL, "IxG")
    with pytest.raises(SpecError, match="neither a layer nor a target"):
        attrlib.score("sds", MODEL, MethodSpec("maps", "Final", maps_spec(path).params), data)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_an_array_is_scored_as_its_file(tmp_path: Path, data: Dataset, maps: np.ndarray, kind: Any) -> None:
    expected = attrlib.score("sds:grid=2", MODEL, maps=save(tmp_path / "stack.npy", maps, []), data=data)
    result = attrlib.compare(["sds:grid=2"], MODEL, [], data, maps=[kind(maps), -maps])
    own, flipped = (score.values for score in result.scores.values())
    assert np.array_equal(own, expected.values, equal_nan=True)
    assert np.array_equal(flipped, -expected.values, equal_nan=True)
    with pytest.raises(DataError, match="holds Python objects"):
        attrlib.score("sds", MODEL, maps=np.array([None]), data=data)


def test_uploads_are_kept_by_content_read_safely_and_bounded(tmp_path: Path, maps: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    content = save(tmp_path / "stack.npy", maps, []).read_bytes()
    path = keep(content, "../../my maps.npy", tmp_path / "store")
    assert path == keep(content, "../../my maps.npy", tmp_path / "store")
    assert path.name == "my_maps.npy"
    assert path.read_bytes() == content
    assert is_kept(str(path), tmp_path / "store")
    assert not is_kept(str(path.parents[1] / ".." / "results.sqlite"), tmp_path / "store")
    for wrong in (b"", content[:60], pickle.dumps(1), save(tmp_path / "stack.h5", maps, list("0123456789")).read_bytes()):
        with pytest.raises(DataError):
            keep(wrong, "x.npy", tmp_path / "store")
    assert [file for file in (tmp_path / "store").rglob("*") if file.is_file()] == [path]
    monkeypatch.setattr(uploads, "MAX_KEPT", int(1.5 * len(content)))
    second = keep(save(tmp_path / "stack.npy", -maps, []).read_bytes(), "y.npy", tmp_path / "store")
    assert not path.exists()
    assert second.exists()


def test_the_command_line_scores_them_beside_methods(
    tmp_path: Path, data: Dataset, maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attrlib.cli.score, "load_model", lambda name, *_args, **_options: MODEL if name == EMBEDDED else None)
    path = tmp_path / "my maps.npz"
    np.savez(path, maps=maps)

    def call(*words: str) -> Any:
        return CliRunner().invoke(attrlib.cli.app, ["score", "--protocol", "sds:grid=2", "--data", str(tmp_path / "pictures"), *words])

    result = call("--methods", "IxG", "--maps", str(path), "--json", "--layer", "Input")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    one, other = output["scores"]
    assert sorted(one["values"]) == sorted(other["values"])
    assert {one["method"], other["method"]} == {"IxG@Input", str(maps_spec(path))}
    assert str(maps_spec(path)) in output["cli"]
    alone = call("--maps", str(path))
    assert alone.exit_code == 0, alone.output
    assert "10 cached" in alone.stdout
    assert "matched by place" in alone.stderr
    missing = call("--maps", str(tmp_path / "none.npz"))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: the maps ")
    assert missing.stderr.count("\n") == 1


def test_the_store_keeps_no_copy_of_them(tmp_path: Path, data: Dataset, maps: np.ndarray) -> None:
    store = open_store()
    assert isinstance(store, Store)
    attrlib.score("entropy", MODEL, maps=save(tmp_path / "stack.npy", maps, []), data=data, store=store)
    kept = lambda: [path for path in store.folder.rglob("*") if path.suffix == ".safetensors"]  # noqa: E731
    assert not kept()
    attrlib.score("entropy", MODEL, "IxG", data=data, store=store)
    assert len(kept()) == IMAGES
