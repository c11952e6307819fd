import hashlib
import importlib.util
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.waiting import counted_calls

import attrlib
from attrlib.data import datasets
from attrlib.data.datasets import NAMED, Dataset, DatasetInfo, Item, list_datasets, load_dataset, named
from attrlib.data.derived import Kept, Subset
from attrlib.data.labels import match_classes
from attrlib.data.tables import MAX_CSV_BYTES
from attrlib.errors import DataError, ImageError, SpecError


def encoded(seed: int = 0, size: tuple[int, int] = (10, 9), kind: str = "PNG") -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def pixels(seed: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(seed))))


def write(folder: Path, files: Sequence[str]) -> Path:
    """Files with a different picture each."""
    for k, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(k))
    folder.mkdir(exist_ok=True)
    return folder


def write_csv(folder: Path, text: str | bytes, pictures: Sequence[str] = ("a.png", "b.png")) -> Path:
    write(folder, pictures)
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names(data: Dataset) -> list[str]:
    return [item.name for item in data]


def classes(data: Dataset) -> list[str | None]:
    return [None if (label := data.label(k)) is None else data.class_names[label] for k in range(len(data))]


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_options: object) -> None:
        raise AssertionError(f"opened {args[0]}")

    monkeypatch.setattr(datasets, "open_photo", refuse)
    monkeypatch.setattr(hashlib, "file_digest", refuse)


# Folders


def test_direct_subfolders_are_classes_and_files_are_sorted_by_path(tmp_path: Path) -> None:
    files = ["dog/z.png", "cat/b.PNG", "cat/deep/er/a.jpeg", "cat/a.JpG", "cat-fish/x.webp", "dog/10.png", "dog/9.png"]
    data = load_dataset(write(tmp_path, files))
    assert data.class_names == ("cat", "cat-fish", "dog")
    assert names(data) == sorted(files)
    assert classes(data) == [file.split("/")[0] for file in sorted(files)]
    assert [item.label for item in data] == [data.label(k) for k in range(len(data))]


def test_items_hold_the_pixels_of_their_files_as_rgb(tmp_path: Path) -> None:
    files = ["b/1.png", "a/2.png", "a/0.png"]
    data = load_dataset(write(tmp_path, files))
    for item in data:
        assert item.image.mode == "RGB"
        assert (np.asarray(item.image) == pixels(files.index(item.name))).all()
        assert item.masks == {}
    assert not data.has_masks


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    data = load_dataset(str(write(tmp_path, ["b.png", "a.jpg", "C.webp"])))
    assert names(data) == ["C.webp", "a.jpg", "b.png"]
    assert data.class_names == ()
    assert classes(data) == [None] * 3
    assert [item.label for item in data] == [None] * 3


def test_one_class_folder_is_enough(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["tench/a.png"]))
    assert (data.class_names, data.label(0)) == (("tench",), 0)


def test_hidden_and_other_files_and_folders_without_pictures_are_left_out(tmp_path: Path) -> None:
    ignored = ["a/.x.png", ".git/x.png", "a/.deep/x.png", ".y.png", "a/notes.txt", "readme.md", "a/png", "a/x.gif", "empty/x.json"]
    write(tmp_path, ["a/1.png", *ignored])
    (tmp_path / "bare").mkdir()
    data = load_dataset(tmp_path)
    assert names(data) == ["a/1.png"]
    assert data.class_names == ("a",)


def test_a_folder_called_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    assert names(load_dataset(write(tmp_path, ["a.png/b.png"]))) == ["a.png/b.png"]


@pytest.mark.usefixtures("nothing_is_opened")
def test_nothing_is_opened_or_hashed_before_it_is_accessed(tmp_path: Path) -> None:
    for data in (
        load_dataset(write(tmp_path / "f", ["a/1.png", "b/2.png"])),
        load_dataset(write_csv(tmp_path / "c", "file,label\na.png,x\nb.png,y\n")),
        load_dataset(write(tmp_path / "m", ["images/1.png", "images/2.png", "masks/1.png"])),
    ):
        assert len(data) == 2
        assert sorted(data.order(0)) == [0, 1]
        assert data.label(1) == (1 if data.class_names else None)
        with pytest.raises(AssertionError, match="opened"):
            data[0]
        with pytest.raises(AssertionError, match="opened"):
            data.item_id(0)


def test_listing_queries_only_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        for k in range(400):
            (tmp_path / name / f"{k}.jpg").touch()
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: asked.append(path) or stat(path, *a, **k))
    assert len(load_dataset(tmp_path)) == 1200
    assert 0 < len(asked) < 20


def test_a_data_set_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", ["a.png"])
    monkeypatch.chdir(tmp_path)
    data = load_dataset("here")
    monkeypatch.chdir("/")
    assert data[0].id == data.item_id(0)


@pytest.mark.parametrize("source", ["birds", "birds:train", "photos"])
def test_the_name_of_a_picture_does_not_require_opening_it(source: str) -> None:
    data = load_dataset(source)
    for own in (data, Subset(data, [3, 1]), Kept(data)):
        assert [own.item_name(k) for k in (0, 1, -1)] == [own[k].name for k in (0, 1, -1)]


def test_names_that_are_not_utf8_or_contain_line_breaks_can_be_loaded_and_printed(tmp_path: Path) -> None:
    tmp_path = tmp_path / "line\nbreak"
    tmp_path.mkdir()
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9", b"caf\xe8", "日本".encode()):
        os.mkdir(os.path.join(folder, name))
        Path(os.fsdecode(os.path.join(folder, name, b"\xff\n1.png"))).write_bytes(encoded())
        Path(os.fsdecode(os.path.join(folder, name, b"\xff\n2.png"))).write_bytes(b"no picture")
    data = load_dataset(tmp_path)
    assert len(data) == 6
    assert len(set(data.class_names)) == 3
    assert "日本" in data.class_names
    for text in (data.name, *data.class_names):
        assert text.encode().decode().isprintable()
    for k in (0, 2, 4):
        assert data[k].name.encode().decode().isprintable()
        with pytest.raises(ImageError) as caught:
            data[k + 1]
        assert str(caught.value).encode().decode().isprintable()


# Links


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", ["x/1.png", "2.png"])
    data = write(tmp_path / "data", ["a/0.png"])
    (data / "b").symlink_to(tmp_path / "elsewhere")
    (data / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    assert names(load_dataset(data)) == ["a/0.png", "a/3.png", "b/2.png", "b/x/1.png"]
    (tmp_path / "link").symlink_to(data)
    assert len(load_dataset(tmp_path / "link")) == 4


def test_one_folder_under_two_names_is_two_classes(tmp_path: Path) -> None:
    write(tmp_path, ["b/1.png"])
    (tmp_path / "a").symlink_to(tmp_path / "b")
    data = load_dataset(tmp_path)
    assert names(data) == ["a/1.png", "b/1.png"]
    assert data.class_names == ("a", "b")


def test_the_name_of_a_folder_takes_precedence_over_that_of_a_link(tmp_path: Path) -> None:
    write(tmp_path, ["class/b/1.png"])
    (tmp_path / "class" / "a").symlink_to("b")
    assert names(load_dataset(tmp_path)) == ["class/b/1.png"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "top").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("nowhere")
    assert names(load_dataset(tmp_path)) == ["a/1.png", "b/2.png"]


def test_many_folders_that_link_to_each_other_are_listed_once_each(tmp_path: Path) -> None:
    count = 12
    write(tmp_path, [f"class/{k}/{k}.png" for k in range(count)])
    for i in range(count):
        for j in set(range(count)) - {i}:
            (tmp_path / "class" / str(i) / f"to{j}").symlink_to(tmp_path / "class" / str(j))
    with counted_calls(most=100 * count**2):
        data = load_dataset(tmp_path)
    assert sorted(name.split("/")[-1] for name in names(data)) == sorted(f"{k}.png" for k in range(count))


def test_a_broken_link_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png"])
    (tmp_path / "a" / "0.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "a" / "2.png")
    data = load_dataset(tmp_path)
    assert len(data) == 3
    assert data[1].name == "a/1.png"
    for k in (0, 2):
        with pytest.raises(ImageError, match="give the path"):
            data[k]
        with pytest.raises(ImageError, match=f"a/{k}.png cannot be read"):
            data.item_id(k)


# Digests


def test_an_id_is_the_digest_of_the_bytes(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["a/1.png", "a/2.png"]))
    expected = [hashlib.blake2b(encoded(k), digest_size=16).hexdigest() for k in range(2)]
    assert [data.item_id(k) for k in range(2)] == expected
    assert [item.id for item in data] == expected


def test_moving_and_renaming_does_not_change_the_ids(tmp_path: Path) -> None:
    before = load_dataset(write(tmp_path / "one", ["a/1.png", "a/2.png", "b/3.png"]))
    ids = [before.item_id(k) for k in range(3)]
    (tmp_path / "one" / "a" / "1.png").rename(tmp_path / "one" / "b" / "0.jpg")
    (tmp_path / "one").rename(tmp_path / "two")
    after = load_dataset(tmp_path / "two")
    assert names(after) == ["a/2.png", "b/0.jpg", "b/3.png"]
    assert [after.item_id(k) for k in range(3)] == [ids[1], ids[0], ids[2]]


def test_identical_files_have_one_id_and_others_not(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png", "a/2.png"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "copy.jpg").write_bytes(encoded(0))
    data = load_dataset(tmp_path)
    assert data.item_id(0) == data.item_id(2) != data.item_id(1)


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ["a.png"])
    hashed = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(args) or file_digest(*args))
    first = load_dataset(tmp_path).item_id(0)
    data = load_dataset(tmp_path)
    assert data.item_id(0) == data[0].id == first
    assert len(hashed) == 1
    changed = bytearray(encoded(0))
    changed[-1] ^= 1
    (tmp_path / "a.png").write_bytes(changed)
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert data.item_id(0) != first
    assert len(hashed) == 2


# Order and indices


def test_an_order_is_a_permutation_that_depends_only_on_the_seed(tmp_path: Path) -> None:
    files = [f"{k}.png" for k in range(40)]
    data, again = load_dataset(write(tmp_path / "a", files)), load_dataset(write(tmp_path / "b", files))
    state = torch.get_rng_state()
    orders = [data.order(seed) for seed in range(20)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 20
    assert orders == [again.order(seed) for seed in range(20)]
    assert orders[0][:6] == [4, 16, 21, 5, 11, 14]
    assert all(type(k) is int for k in orders[0])


@pytest.mark.parametrize("seed", [-1, 1.5, "x", 2**31, None])
def test_an_invalid_seed_is_refused(seed: object, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="seed"):
        load_dataset(write(tmp_path, ["a.png"])).order(seed)


def test_indices_work_as_for_a_list(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["a/0.png", "b/1.png"]))
    assert data[-1].name == data[np.int64(1)].name == "b/1.png"
    assert (data.label(-1), data.item_id(-2)) == (1, data.item_id(0))
    for ask in (data.__getitem__, data.label, data.item_id):
        for index in (2, -3):
            with pytest.raises(IndexError):
                ask(index)
        with pytest.raises(TypeError):
            ask(slice(0, 1))


# Pictures that cannot be read


def test_unreadable_pictures_do_not_affect_the_others(tmp_path: Path) -> None:
    write(tmp_path, [f"a/{k}.png" for k in range(6)])
    damaged = {0: b"", 2: b"\x89PNG\r\n\x1a\n" + bytes(99), 4: encoded(4)[:60]}
    for k, content in damaged.items():
        (tmp_path / "a" / f"{k}.png").write_bytes(content)
    data = load_dataset(tmp_path)
    assert len(data) == 6
    for k in range(6):
        assert data.label(k) == 0
        assert len(data.item_id(k)) == 32
        if k in damaged:
            with pytest.raises(ImageError, match=f"a/{k}.png"):
                data[k]
        else:
            assert (np.asarray(data[k].image) == pixels(k)).all()


def test_a_file_that_is_deleted_afterwards_is_refused(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["1.png", "2.png"]))
    (tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match="there is no picture"):
        data[0]
    with pytest.raises(ImageError, match=r"1\.png cannot be read; put the file back"):
        data.item_id(0)
    assert data[1].name == "2.png"


def test_a_named_pipe_with_the_name_of_a_picture_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    data = load_dataset(tmp_path)
    with pytest.raises(ImageError):
        data[0]
    with pytest.raises(ImageError):
        data.item_id(0)


# Masks


def save_mask(path: Path, values: np.ndarray | Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, "PNG", **options)


def left(dtype: type = np.uint8, value: int = 1) -> np.ndarray:
    mask = np.zeros((9, 10), dtype)
    mask[:, :4] = value
    return mask


def masked(folder: Path, mask: np.ndarray | Image.Image, **options: object) -> Dataset:
    write(folder, ["images/1.jpg"])
    save_mask(folder / "masks" / "1.png", mask, **options)
    return load_dataset(folder)


def palette() -> Image.Image:
    image = Image.frombytes("P", (10, 9), left(value=2).tobytes())
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 1])
    return image


@pytest.mark.parametrize(
    "mask",
    [left(), left(value=255), left(bool, True), left()[..., None] * np.array([0, 0, 1], np.uint8), palette()],
    ids=["1", "255", "one bit", "blue", "palette"],
)
def test_non_zero_pixels_of_a_mask_are_the_object(mask: np.ndarray, tmp_path: Path) -> None:
    data = masked(tmp_path, mask)
    found = data[0].masks
    assert data.has_masks
    assert list(found) == ["object"]
    assert found["object"].dtype == bool
    assert found["object"].shape == data[0].image.size[::-1]
    assert (found["object"] == left(bool, True)).all()


def test_masks_go_with_the_picture_of_the_same_path_and_classes_are_below_images(tmp_path: Path) -> None:
    write(tmp_path, ["images/a/1.png", "images/a/x/2.PNG", "images/b/1.jpg", "images/b/3.png", "masks/unused.png", "other/9.png"])
    for columns, file in enumerate(["a/1.png", "a/x/2.PNG", "b/1.PNG"]):
        save_mask(tmp_path / "masks" / file, (np.arange(90).reshape(9, 10) % 10 <= columns).astype(np.uint8))
    data = load_dataset(tmp_path)
    assert names(data) == ["images/a/1.png", "images/a/x/2.PNG", "images/b/1.jpg", "images/b/3.png"]
    assert classes(data) == ["a", "a", "b", "b"]
    assert [item.masks["object"].sum() for item in data if item.masks] == [9, 18, 27]
    assert data[3].masks == {}


def test_a_flat_folder_of_images_can_have_masks(tmp_path: Path) -> None:
    data = masked(tmp_path, left())
    assert (data.class_names, data.label(0), data[0].label) == ((), None, None)


def test_an_id_depends_on_the_mask(tmp_path: Path) -> None:
    ids = [masked(tmp_path / "1", left()).item_id(0), masked(tmp_path / "2", left(value=2)).item_id(0)]
    ids += [load_dataset(write(tmp_path / "3", ["1.jpg"])).item_id(0)]
    assert len(set(ids)) == 3
    assert masked(tmp_path / "4", left())[0].id == ids[0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((10, 9), np.uint8), "9 x 10 px, but its picture has 10 x 9"),
        (left(np.uint16), "16 bits"),
        (np.stack([left()] * 3 + [left(value=255)], axis=-1), "transparent"),
    ],
    ids=["size", "16 bits", "transparent"],
)
def test_a_mask_that_could_be_misread_is_refused(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"the mask of images/1.jpg .*{message}.*save (it|the mask)"):
        masked(tmp_path, mask)[0]


def test_a_mask_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    data = masked(tmp_path, left())
    (tmp_path / "masks" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"the mask of images/1\.jpg"):
        data[0]
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(ImageError, match=r"the mask of images/1\.jpg cannot be read"):
        data.item_id(0)


@pytest.mark.parametrize("others", [["masks/2.png"], ["masks/1.jpg"], ["masks/x/1.png"], ["masks/readme.txt"]])
def test_masks_that_match_no_picture_are_refused(others: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be 'masks/1\.png': rename the masks"):
        load_dataset(write(tmp_path, ["images/1.jpg", *others]))


# Folders and paths that are not data sets


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["a/x.gif", ".h.png"], ["images/x.txt", "masks/1.png"]])
def test_a_folder_without_pictures_is_refused(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures in .*; add files \(\.jpg, \.jpeg, \.png, \.webp, .*\), or one subfolder of them"):
        load_dataset(write(tmp_path, files))


def test_pictures_both_directly_in_a_folder_and_in_subfolders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pictures such as 'loose\.png' into a subfolder, or move subfolders such as 'a' away"):
        load_dataset(write(tmp_path, ["loose.png", "a/1.png"]))


@pytest.mark.parametrize(("call", "denied"), [("scandir", ""), ("scandir", "a"), ("scandir", "a/b"), ("stat", "a/b")])
def test_a_folder_that_may_not_be_read_is_refused(call: str, denied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ["a/b/1.png", "c/2.png"])
    original = getattr(os, call)

    def guarded(path: str | Path, **options: object) -> object:
        if Path(path) == tmp_path / denied:
            raise PermissionError(13, "Permission denied")
        return original(path, **options)

    assert len(load_dataset(tmp_path)) == 2
    monkeypatch.setattr(os, call, guarded)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); give it read permission"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "path", ["missing", "", "nul\0byte", "~nosuchuser/x", "x" * 5000, "a.png/b", "\udcff"], ids=lambda p: p[:8] or "empty"
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_missing_path_is_refused(path: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, ["a.png"]))
    if kind is Path and not path:
        assert len(load_dataset(Path(path))) == 1
        return
    with pytest.raises(DataError, match=r"Known: photos.*give the path of a folder") as caught:
        load_dataset(kind(path))
    assert len(str(caught.value).encode()) < 400


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(DataError, match="Did you mean photos"):
        load_dataset("Photo")


@pytest.mark.parametrize(("file", "message"), [("cat.png", "one picture"), ("x.txt", "neither"), ("csv", "neither"), ("x.zip", "neither")])
def test_a_file_of_another_kind_is_refused(file: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{message}.*; give a folder of pictures, or a .csv file"):
        load_dataset(write(tmp_path, [file]) / file)


def test_a_named_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="neither a folder nor a CSV file"):
        load_dataset(tmp_path / "pipe.csv")


@pytest.mark.parametrize("source", [None, 3, b"photos", {"a.png": 0}, iter("a")], ids=["None", "number", "bytes", "mapping", "iterator"])
def test_an_object_that_is_not_a_data_set_is_refused(source: object) -> None:
    with pytest.raises(DataError, match="is not a data set; give a name"):
        load_dataset(source)


# CSV files


def test_a_csv_file_gives_files_and_labels_in_its_order(tmp_path: Path) -> None:
    text = "file,label\nb.png,tench\nsub/c.png,cat\na.png,tench\n"
    data = load_dataset(write_csv(tmp_path, text, ["a.png", "b.png", "sub/c.png"]))
    assert names(data) == ["b.png", "sub/c.png", "a.png"]
    assert data.class_names == ("cat", "tench")
    assert classes(data) == ["tench", "cat", "tench"]
    assert [(np.asarray(data[k].image) == pixels(seed)).all() for k, seed in enumerate([1, 2, 0])] == [True] * 3


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.png,x\nb.png,\n",
        "\ufefffile,label\r\na.png,x\r\nb.png,\r\n",
        " File , LABEL \n a.png , x \n\n b.png\n",
        'label,width,file,note\nx,3,a.png,"one, two\nlines"\n,4,b.png\n',
        'file,label\n"a.png","x"\nb.png,,more,than,there,are',
    ],
    ids=["plain", "excel", "spaces", "more columns", "ragged"],
)
def test_the_ways_to_write_the_same_csv(text: str, tmp_path: Path) -> None:
    data = load_dataset(write_csv(tmp_path, text))
    assert names(data) == ["a.png", "b.png"]
    assert data.class_names == ("x",)
    assert [item.label for item in data] == [0, None]


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    data = load_dataset(str(write_csv(tmp_path, "file\nb.png\na.png\n")))
    assert names(data) == ["b.png", "a.png"]
    assert (data.class_names, data.label(0)) == ((), None)


def test_line_breaks_in_a_csv_are_shown_as_escapes(tmp_path: Path) -> None:
    data = load_dataset(write_csv(tmp_path, 'file,label\n"a\nb.png","x\ny"\n', ["a\nb.png"]))
    assert (data[0].name, data.class_names) == ("a\\nb.png", ("x\\ny",))


@pytest.mark.parametrize("suffix", [".csv", ".CSV"])
def test_existing_files_outside_the_folder_are_accepted(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, ["data/a.png", "other/b.png"])
    path = tmp_path / "data" / f"list{suffix}"
    path.write_text(f"file\n{tmp_path}/data/a.png\n../other/b.png\n")
    assert (np.asarray(load_dataset(path)[1].image) == pixels(1)).all()
    path.write_text(f"file\na.png\n../other/b.png\n{tmp_path}/data/../data/a.png\n")
    with pytest.raises(DataError, match=r"lines 2 and 4 of .* name the same file"):
        load_dataset(path)
    path.write_text("file\na.png\n../other/none.png\n")
    with pytest.raises(DataError, match=r"1 of the 2 files .*'\.\./other/none\.png'; write their paths relative"):
        load_dataset(path)


def test_a_csv_entry_without_an_ending_that_is_not_a_picture_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    data = load_dataset(write_csv(tmp_path, "file\na.png\n/etc/passwd\n"))
    assert data[0].name == "a.png"
    with pytest.raises(ImageError, match="use a JPEG, PNG, WebP, BMP, TIFF,"):
        data[1]


def test_endings_in_a_csv_that_cannot_be_read_are_counted_in_an_error(tmp_path: Path) -> None:
    text = "file\na.png\nb.GIF\nc.gif\nlist.csv\n"
    with pytest.raises(
        DataError, match=r"3 of the 4 files that list\.csv names are not pictures that can be read: 2 \.gif, 1 \.csv; save them as"
    ):
        load_dataset(write_csv(tmp_path, text, ["a.png", "b.GIF", "c.gif"]))


GARBAGE = np.random.default_rng(0).bytes(5000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'file'"),
        (b"\n\n", "no column 'file'"),
        (b"name,class\na.png,x\n", "no column 'file'"),
        (b"file;label\na.png;x\n", "no column 'file'"),
        (b"a.png,x\nb.png,y\n", "no column 'file'"),
        (b"file,label\n", "names no files"),
        (b"file,label\na.png,x\n,y\n", "line 3 of list.csv names no file"),
        (b"file,label\na.png,x\nb.png,x\na.png,x\n", "lines 2 and 4 of list.csv name the same file 'a.png'"),
        (b"file,label\na.png,x\n./a.png,y\n", "lines 2 and 3 of list.csv name the same file"),
        (b"file,label\na.png,x\nc.png,x\nd.png,y\n", "2 of the 3 files .* 'c.png', 'd.png'; write"),
        (b"file\n1\n2\n3\n4\n5\n", "5 of the 5 files .* '1', '2', '3', ...; write"),
        (b"file\na.png\n.\n", "1 of the 2 files"),
        (b"file\na.png\nb\0.png\n", "1 of the 2 files|not a CSV file"),
        (b"file,label\na.png,caf\xe9\n", "not a CSV file.*UTF-8"),
        (b'file,label\na.png,"x\nb.png,y\n', "not a CSV file"),
        (b"file\n" + b"x" * 200_000, "not a CSV file.*field larger"),
        (GARBAGE, "not a CSV file"),
        (encoded(), "not a CSV file"),
        ("file\na.png\n".encode("utf-16"), "not a CSV file"),
    ],
    ids=lambda v: repr(v[:16]) if isinstance(v, bytes) else "",
)
def test_an_invalid_csv_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(write_csv(tmp_path, content))
    assert len(str(caught.value)) < 500
    assert any(word in str(caught.value) for word in ("save it as", "write", "remove", "fill it in", "must name the columns"))


def test_the_time_to_read_a_csv_file_is_linear_in_its_length(tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "0.png"
    write(picture.parent, ["0.png"])
    for k in range(1, 100):
        os.link(picture, picture.parent / f"{k}.png")
    good = "".join(f"pictures/{k}.png,{k % 10}\n" for k in range(100))

    def load_bad(count: int) -> None:
        bad = "".join(f"pictures/{k}.png,{k % 10}\n" for k in range(100, count))
        (tmp_path / "list.csv").write_text("file,label\n" + good + bad)
        with pytest.raises(DataError, match=f"{count - 100} of the {count} files"):
            load_dataset(tmp_path / "list.csv")

    def seconds(count: int) -> float:
        """The minimum processor time, which does not depend on how busy the machine is."""
        found = []
        for _ in range(3):
            begun = time.thread_time()
            load_bad(count)
            found.append(time.thread_time() - begun)
        return min(found)

    with counted_calls(most=100 * 5000):
        load_bad(5000)
    # Ten times as much takes ten times as long, and a hundred times as long where each line is compared with all others.
    assert seconds(20_000) < 30 * seconds(2000)
    (tmp_path / "list.csv").write_text("file,label\n" + good)
    assert len(load_dataset(tmp_path / "list.csv")) == 100


def test_a_csv_file_of_gigabytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "list.csv").open("wb") as file:
        file.truncate(MAX_CSV_BYTES + (1 << 20))
    with monkeypatch.context() as patch:
        for opener in ("builtins.open", "io.open", "os.open"):
            patch.setattr(opener, lambda *_args, **_options: pytest.fail("it was opened"))
        with pytest.raises(DataError, match="257 MiB, more than 256; split it"):
            load_dataset(tmp_path / "list.csv")


def test_a_csv_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path, "file\na.png\n")

    def denied(_path: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os.path, "getsize", denied)
    with pytest.raises(DataError, match=r"list\.csv cannot be read \(Permission denied\); give it read permission"):
        load_dataset(path)


# Named and custom data sets


@pytest.mark.parametrize("info", [info for info in list_datasets() if not info.name.startswith("imagenette")], ids=lambda info: info.name)
def test_a_named_data_set_matches_its_description(info: DatasetInfo) -> None:
    data = load_dataset(info.name)
    assert data.name == info.name
    assert info.summary
    assert info.count in (None, len(data))
    assert info.classes in (None, len(data.class_names))
    assert info.masks == data.has_masks
    labels = [data.label(k) for k in range(len(data))]
    assert info.labelled == any(label is not None for label in labels)
    item = data[len(data) - 1]
    assert item.image.mode == "RGB"
    assert (item.id, item.label) == (data.item_id(-1), labels[-1])


def test_the_photos_are_the_samples_under_their_names() -> None:
    data = load_dataset("photos")
    assert len(data) == 8
    for item in data:
        assert np.array_equal(np.asarray(item.image), np.asarray(attrlib.open_image(item.name).image))
    assert len({item.id for item in data}) == 8


def test_the_labels_of_the_photos_match_the_predictions(embedded: attrlib.Classifier) -> None:
    data = load_dataset("photos")
    of_model = match_classes(data.class_names, embedded.class_names)
    labelled = [item for item in data if item.label is not None]
    assert {item.name: embedded.class_names[of_model[item.label]] for item in labelled} == {
        "sample:coffee": "espresso",
        "sample:camera": "tripod",
    }
    for item in labelled:
        assert embedded(embedded.preprocess(item.image)[None]).argmax() == of_model[item.label]


def test_the_photos_need_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        load_dataset("photos")


class Mine(Dataset):
    """Two grey squares."""

    name, class_names = "mine", ("dark", "light")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Item:
        if not -2 <= index < 2:
            raise IndexError(index)
        return Item(Image.new("RGB", (8, 8), (100 * index,) * 3), self.label(index), self.item_id(index), str(index))

    def label(self, index: int) -> int:
        return index % 2

    def item_id(self, index: int) -> str:
        return str(index % 2)


def test_a_custom_data_set_is_returned_unchanged() -> None:
    mine = Mine()
    assert load_dataset(mine) is mine
    assert [item.label for item in mine] == [0, 1]
    assert sorted(mine.order(3)) == [0, 1]
    assert not mine.has_masks


def test_a_named_data_set_is_added_with_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "NAMED", dict(NAMED))
    info = DatasetInfo("mine", "Two grey squares", 2, 2, labelled=True)

    @named(info)
    def make(name: str) -> Dataset:
        return Mine()

    assert list_datasets()[-1] == info
    assert isinstance(load_dataset("mine"), Mine)
    with pytest.raises(DataError, match="'mine' is registered twice"):
        named(info)(make)


@pytest.mark.parametrize("source", ["./photos", Path("photos"), "photos/"])
def test_a_folder_with_the_name_of_a_named_data_set(source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "photos", ["1.png"])
    data = load_dataset(source)
    assert names(data) == names(load_dataset(data.name)) == ["1.png"]
    assert len(load_dataset("photos")) == 8


def test_the_name_of_a_data_set_loads_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sources: list[Callable[[], str | Path]] = [
        lambda: "photos",
        lambda: write(tmp_path / "f", ["a/1.png"]),
        lambda: "~/f",
        lambda: write_csv(tmp_path / "c", "file\na.png\n"),
    ]
    for source in sources:
        data = load_dataset(source())
        assert names(load_dataset(data.name)) == names(data)
