"""Pictures in memory as data sets, against their own pixels and labels, PIL and torchvision."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset as TorchSubset
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import Compose, Lambda, Normalize, RandomHorizontalFlip, ToTensor

from attrlib.data.arrays import as_picture
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.errors import DataError, ImageError

RGB = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)
GREY = RGB[..., 0]
LABELS = [2, 0, 1, 1, 0]


def pixels(data: Dataset) -> np.ndarray:
    return np.stack([np.asarray(item.image) for item in data])


def grey_as_rgb(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, -1)


# Arrays and tensors


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB.transpose(0, 3, 1, 2), RGB),
        (GREY, grey_as_rgb(GREY)),
        (GREY[..., None], grey_as_rgb(GREY)),
        (GREY[:, None], grey_as_rgb(GREY)),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB[..., ::-1], RGB[..., ::-1]),
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(RGB).permute(0, 3, 1, 2), RGB),
        (torch.from_numpy(RGB).permute(0, 3, 1, 2) / 255, RGB),
        ((torch.from_numpy(RGB) / 255).requires_grad_(), RGB),
        (torch.from_numpy(GREY), grey_as_rgb(GREY)),
    ],
    ids=[
        "HWC",
        "CHW",
        "HW",
        "HW1",
        "1HW",
        "double",
        "float",
        "reversed",
        "tensor HWC",
        "tensor CHW",
        "tensor float",
        "with gradient",
        "tensor HW",
    ],
)
def test_arrays_of_every_layout_hold_their_pixels(array: Any, expected: np.ndarray) -> None:
    data = load_dataset(array, labels=LABELS, class_names=["a", "b", "c"])
    assert (pixels(data) == expected).all()
    assert [data.label(k) for k in range(5)] == LABELS == [item.label for item in data]
    assert (data.class_names, data.multi_label, data.has_masks) == (("a", "b", "c"), False, False)


def test_a_side_of_three_is_read_as_the_library_has_it() -> None:
    """(3,12,3) may be (C,H,W) or (H,W,C): tensors are the former and arrays the latter."""
    values = np.random.default_rng(0).integers(0, 256, (3, 12, 3), dtype=np.uint8)
    assert (np.asarray(as_picture(values)) == values).all()
    assert (np.asarray(as_picture(torch.from_numpy(values))) == values.transpose(1, 2, 0)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\) is not a data set; give pictures as \(N,H,W\)"),
        (np.zeros((12, 10, 3), np.uint8), r"shape \(12, 10, 3\) is not a data set"),
        (np.zeros((0, 12, 10), np.uint8), r"shape \(0, 12, 10\) is not a data set"),
        (np.zeros((2, 4, 12, 10), np.uint8), r"shape \(4, 12, 10\) is not a picture .* with 1 or 3 channels"),
        (np.zeros((2, 12, 10), np.int64), "int64 values cannot be read as pixels; give uint8"),
        (torch.zeros(2, 12, 10, dtype=torch.int32), "int32 values cannot be read as pixels"),
        (RGB / 100, "values from 0 to 2.55 look scaled in another way"),
        (RGB.astype(float), "values from 0 to 255 look scaled in another way"),
        ((torch.from_numpy(RGB) / 255 - 0.5) / 0.5, "values from -1 to 1 look normalised, but attrlib preprocesses pictures itself"),
        (np.full((2, 12, 10), np.nan), "values from nan to nan"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(array)


# Labels


@pytest.mark.parametrize(
    ("labels", "names", "expected", "several"),
    [
        (None, (), [(), (), (), (), ()], False),
        ([2, 0, 1, 1, 0], ("0", "1", "2"), [(2,), (0,), (1,), (1,), (0,)], False),
        (np.array([2, 0, 1, 1, 0]), ("0", "1", "2"), [(2,), (0,), (1,), (1,), (0,)], False),
        (torch.tensor([2, 0, 1, 1, 0]), ("0", "1", "2"), [(2,), (0,), (1,), (1,), (0,)], False),
        ([2.0, None, float("nan"), 1, 0], ("0", "1", "2"), [(2,), (), (), (1,), (0,)], False),
        (["dog", "cat", None, "cat", "ant"], ("ant", "cat", "dog"), [(2,), (1,), (), (1,), (0,)], False),
        ([["dog", "cat"], [], "cat", ("ant",), {"dog"}], ("ant", "cat", "dog"), [(1, 2), (), (1,), (0,), (2,)], True),
        ([[2, 0], [1], [], [0], [2]], ("0", "1", "2"), [(0, 2), (1,), (), (0,), (2,)], True),
        (np.eye(5, 3, dtype=int), ("0", "1", "2"), [(0,), (1,), (2,), (), ()], True),
        (torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0], [0, 0]]).float(), ("0", "1"), [(0, 1), (1,), (), (0,), ()], True),
        (np.array([[1], [0], [1], [1], [0]]), ("0", "1"), [(1,), (0,), (1,), (1,), (0,)], False),
    ],
)
def test_labels_are_indices_names_lists_or_vectors(
    labels: Any, names: tuple[str, ...], expected: list[tuple[int, ...]], several: bool
) -> None:
    data = load_dataset(RGB, labels=labels)
    assert data.class_names == names
    assert [data.labels(k) for k in range(5)] == expected
    assert data.multi_label == several
    assert [data.label(k) for k in range(5)] == [own[0] if len(own) == 1 else None for own in expected]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1], None, "2 labels for 5 pictures"),
        ([0, 1, 2, 3, -1], None, "'-1' is not a class index"),
        ([0, 1, 2, 3, 0.5], None, "'0.5' is not a class index"),
        ([0, 1, 2, 3, 10**9], None, "1000000000 is not a class index"),
        ([0, 1, 2, 3, "x"], None, "some labels are names and some are numbers"),
        ([0, 1, 2, 1, 0], ["a", "b"], "label 2 is not an index of the 2 classes"),
        (["a", "b", "c", "a", "a"], ["a", "b"], "label 'c' is not one of the 2 classes"),
        ([0] * 5, ["a", "a"], "names a class twice"),
        ([0] * 5, "ab", "must be a list of texts"),
        ([[1, 0, 1]] * 5, None, "names a class twice; give a vector of 0 and 1 as an array"),
        (np.full((5, 3), 2), None, "must hold 0 or 1 for each of the 3 classes"),
        (np.eye(5), ["a", "b"], "a label of 5 numbers must hold 0 or 1 for each of the 2 classes"),
        ([np.zeros((2, 2))] * 5, None, r"shape \(2, 2\) is not a class"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Any, names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(RGB, labels=labels, class_names=names)


@pytest.mark.parametrize("source", ["photos", "folder", "dataset"])
def test_labels_are_for_pictures_in_memory_only(source: str, tmp_path: Path) -> None:
    real = {"folder": tmp_path, "dataset": load_dataset("photos")}.get(source, source)
    with pytest.raises(DataError, match="labels and class_names are for pictures in memory"):
        load_dataset(real, labels=[1])


# Lists


def test_a_list_mixes_paths_names_pil_images_and_arrays(tmp_path: Path) -> None:
    Image.fromarray(RGB[0]).save(tmp_path / "0.png")
    pairs = [
        (tmp_path / "0.png", "cat"),
        (Image.fromarray(RGB[1]), "dog"),
        (RGB[2], "cat"),
        ("sample:cat", None),
        [torch.from_numpy(RGB[4]), "dog"],
    ]
    data = load_dataset(pairs)
    assert (np.stack([np.asarray(data[k].image) for k in (0, 1, 2, 4)]) == RGB[[0, 1, 2, 4]]).all()
    assert [data.labels(k) for k in range(5)] == [(0,), (1,), (0,), (), (1,)]
    assert [data.item_name(k) for k in (0, 3)] == [str(tmp_path / "0.png"), "sample:cat"]
    assert data.item_id(0) == load_dataset(tmp_path).item_id(0)
    assert data.item_id(3) == load_dataset("photos").item_id(0)
    assert [item.id for item in data] == [data.item_id(k) for k in range(5)]


def test_a_list_of_pictures_takes_labels() -> None:
    data = load_dataset(list(RGB), labels=LABELS)
    assert [data.label(k) for k in range(5)] == LABELS
    assert load_dataset([Image.fromarray(own) for own in RGB]).class_names == ()


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        ([], None, "is empty"),
        ([3], None, "a int in the list is not a picture"),
        ([RGB[0], (RGB[0], 1)], None, "some entries of the list are pairs"),
        ([(RGB[0], 1)], [1], "labels= is one too many"),
        ([RGB[0] - 0.5], None, "look normalised|scaled"),
        ([(RGB, 0)], None, r"shape \(5, 12, 10, 3\) is not a picture"),
    ],
)
def test_lists_that_are_no_pictures_are_refused(source: list, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(source, labels=labels)


def test_a_damaged_file_in_a_list_does_not_affect_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    data = load_dataset([tmp_path / "bad.png", RGB[1]], labels=[0, 1])
    with pytest.raises(ImageError, match=r"bad\.png is not a picture"):
        data[0]
    assert (np.asarray(data[1].image) == RGB[1]).all()


# Digests


def test_ids_are_digests_of_the_pixels() -> None:
    data, tensor = load_dataset(RGB), load_dataset(torch.from_numpy(RGB).permute(0, 3, 1, 2) / 255)
    assert [data.item_id(k) for k in range(5)] == [item.id for item in tensor] == [item.id for item in load_dataset(list(RGB))]
    assert len({item.id for item in data}) == 5
    assert load_dataset(RGB[::-1].copy()).item_id(0) == data.item_id(4)
    assert load_dataset(RGB[:, :, ::-1].copy()).item_id(0) != data.item_id(0)


def test_a_picture_that_changes_is_refused() -> None:
    array = RGB.copy()
    data = load_dataset(array)
    first = data.item_id(0)
    array[0] += 1
    with pytest.raises(DataError, match="is a different picture each time it is read; remove random augmentation"):
        data[0]
    assert data.item_id(0) == first


def test_names_are_labels_of_their_content_that_cannot_be_loaded() -> None:
    sources = [RGB, RGB[::-1].copy(), RGB[:4], list(RGB)]
    names = [load_dataset(source).name for source in sources] + [load_dataset(RGB, labels=LABELS).name]
    assert len(set(names)) == 5
    assert load_dataset(RGB.copy()).name == names[0]
    assert names[0].startswith("memory:array-")
    with pytest.raises(DataError, match=f"'{names[0]}' was a data set in the memory of a Python program"):
        load_dataset(names[0])


# Data sets of torch


class Pairs(TorchDataset):
    """Pictures and labels as given, through a transform."""

    def __init__(self, pictures: Any, labels: Any, transform: Any = None, **attributes: Any):
        self.pictures, self.own_labels, self.transform = pictures, labels, transform
        self.__dict__ |= attributes
        self.opened: list[int] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, k: int) -> Any:
        self.opened.append(k)
        picture = self.pictures[k]
        return self.transform(picture) if self.transform else picture, self.own_labels[k]


IMAGES = [Image.fromarray(own) for own in RGB]


@pytest.mark.parametrize("transform", [None, ToTensor(), Lambda(np.asarray), Lambda(lambda image: torch.from_numpy(np.array(image)))])
def test_a_torch_data_set_gives_pil_images_or_tensors(transform: Any) -> None:
    data = load_dataset(Pairs(IMAGES, LABELS, transform), class_names=["a", "b", "c"])
    assert (pixels(data) == RGB).all()
    assert [data.label(k) for k in range(5)] == LABELS
    assert [data.item_id(k) for k in range(5)] == [load_dataset(RGB).item_id(k) for k in range(5)]
    assert (data.notes == ()) == (transform is None)


def test_labels_that_are_kept_beside_the_pictures_are_known_without_opening_them() -> None:
    source = Pairs(IMAGES * 20, LABELS * 20, targets=LABELS * 20, classes=["x", "y", "z"])
    data = load_dataset(source)
    source.opened.clear()
    assert [data.label(k) for k in range(100)] == LABELS * 20
    assert data.class_names == ("x", "y", "z")
    assert source.opened == []


def test_labels_that_are_not_those_of_the_items_are_not_used() -> None:
    shifted = Pairs(IMAGES, LABELS, targets=[(k + 1) % 3 for k in LABELS], classes=["x", "y", "z"])
    data = load_dataset(shifted)
    assert [data.label(k) for k in range(5)] == LABELS
    later = load_dataset(Pairs(IMAGES, LABELS, targets=[2, 0, 1, 0, 0], classes=["x", "y", "z"]))
    with pytest.raises(DataError, match="has the label 1, but the data set's list of labels says 0"):
        later[3]


def test_vectors_and_lists_are_several_labels() -> None:
    vectors = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    expected = [(0, 2), (), (1,), (0, 1, 2), (2,)]
    for labels, names in ((vectors, None), (list(map(list, expected)), ["a", "b", "c"]), (vectors.float().numpy(), ["a", "b", "c"])):
        data = load_dataset(Pairs(IMAGES, labels), class_names=names)
        assert data.multi_label
        assert [data.labels(k) for k in range(5)] == expected
        assert data.class_names == tuple(names or "012")


def test_the_first_picture_may_be_the_only_one_without_a_label() -> None:
    data = load_dataset(Pairs(IMAGES, [None, 1, 0, 2, None]), class_names=["a", "b", "c"])
    assert [data.labels(k) for k in range(5)] == [(), (1,), (0,), (2,), ()]


def test_a_torch_data_set_of_pictures_alone_is_unlabelled() -> None:
    class Alone(Pairs):
        def __getitem__(self, k: int) -> Any:
            return super().__getitem__(k)[0]

    assert [load_dataset(Alone(IMAGES, LABELS)).label(k) for k in range(5)] == [None] * 5
    assert [load_dataset(Alone(IMAGES, LABELS), labels=LABELS).label(k) for k in range(5)] == LABELS


def test_random_augmentation_is_refused() -> None:
    torch.manual_seed(0)
    data = load_dataset(Pairs(IMAGES, LABELS, RandomHorizontalFlip()), class_names=["a", "b", "c"])
    with pytest.raises(DataError, match=r"remove random augmentation \(transform=None\)"):
        [data[0] for _ in range(40)]


def test_normalised_pictures_are_refused_with_what_to_do() -> None:
    transform = Compose([ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    with pytest.raises(DataError, match=r"look normalised, but attrlib preprocesses pictures itself; .* transform=None"):
        load_dataset(Pairs(IMAGES, LABELS, transform), class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Pairs(IMAGES, LABELS), r"the Pairs does not say which classes it has; give class_names"),
        (DataLoader(Pairs(IMAGES, LABELS)), r"pass its data set, loader\.dataset"),
        (type("Stream", (IterableDataset,), {"__iter__": lambda _self: iter(())})(), "an IterableDataset has no pictures by index"),
        (Pairs([], []), "the Pairs is empty"),
        (Pairs([{"a": 1}], [0], classes=["x"]), "is a dict, not a picture"),
        (Pairs([None], [0], classes=["x"]), "is a NoneType, not a picture"),
    ],
)
def test_what_is_no_data_set_of_pictures_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(source)


def test_items_of_another_form_are_refused() -> None:
    class Three(Pairs):
        def __getitem__(self, k: int) -> Any:
            return IMAGES[k], 0, "id"

    class Named(Pairs):
        def __getitem__(self, k: int) -> Any:
            return {"image": IMAGES[k], "label": 0}

    class Broken(Pairs):
        def __getitem__(self, k: int) -> Any:
            raise KeyError(k)

    for kind, message in ((Three, "are 3 values; give pairs"), (Named, "are a dict; give pairs"), (Broken, "cannot be read .KeyError: 9")):
        with pytest.raises(DataError, match=message):
            load_dataset(kind(IMAGES * 2, LABELS * 2), class_names=["x"])


def test_a_damaged_item_does_not_affect_the_others() -> None:
    class Damaged(Pairs):
        def __getitem__(self, k: int) -> Any:
            if k in (0, 3):
                raise OSError("truncated")
            return super().__getitem__(k)

    data = load_dataset(Damaged(IMAGES, LABELS), class_names=["a", "b", "c"])
    assert (np.asarray(data[1].image) == RGB[1]).all()
    for k in (0, 3):
        with pytest.raises(ImageError, match=r"item . of the Damaged cannot be read .OSError: truncated"):
            data[k]


def test_a_tensor_data_set_is_its_two_tensors() -> None:
    data = load_dataset(TensorDataset(torch.from_numpy(RGB).permute(0, 3, 1, 2), torch.tensor(LABELS)))
    assert (pixels(data) == RGB).all()
    assert [data.label(k) for k in range(5)] == LABELS


# torchvision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("10", "9", "cat", "cat-fish"):
        (tmp_path / "data" / name / "deep").mkdir(parents=True)
        for k in range(3):
            Image.fromarray(RGB[k]).save(tmp_path / "data" / name / ("deep" if k == 2 else "") / f"{k}.png")
    return tmp_path / "data"


def test_an_image_folder_keeps_its_order_and_classes_and_can_be_opened_again(folder: Path) -> None:
    theirs = ImageFolder(str(folder), transform=ToTensor())
    data = load_dataset(theirs)
    assert data.class_names == tuple(theirs.classes) == ("10", "9", "cat", "cat-fish")
    assert [data.label(k) for k in range(len(data))] == theirs.targets
    assert [folder / data.item_name(k) for k in range(len(data))] == [Path(path) for path, _ in theirs.samples]
    for k in (0, 5, 11):
        assert (np.asarray(data[k].image) == np.asarray(theirs.loader(theirs.samples[k][0]))).all()
    assert data.notes == ("the transform of the ImageFolder is not used: its files are opened, and preprocessed as the model needs",)
    assert {item.id for item in data} == {item.id for item in load_dataset(folder)}


def test_an_image_folder_of_plain_order_has_the_name_of_its_folder(folder: Path) -> None:
    (folder / "cat-fish").rename(folder / "catfish")
    data = load_dataset(ImageFolder(str(folder)))
    assert data.source == data.name == str(folder)
    assert [item.id for item in load_dataset(data.name)] == [item.id for item in data]


def test_an_image_folder_with_other_classes_is_in_memory(folder: Path) -> None:
    class Merged(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            return ["number", "animal"], {"9": 0, "10": 0, "cat": 1, "cat-fish": 1}

    data = load_dataset(Merged(str(folder)))
    assert data.class_names == ("number", "animal")
    assert sorted(data.label(k) for k in range(12)) == [0] * 6 + [1] * 6
    assert data.source.startswith("memory:Merged-")


def test_a_target_transform_is_applied(folder: Path) -> None:
    theirs = ImageFolder(str(folder), target_transform=lambda label: 3 - label)
    data = load_dataset(theirs, class_names=["d", "c", "b", "a"])
    assert [data.label(k) for k in range(12)] == [theirs[k][1] for k in range(12)]


def test_files_of_another_kind_are_opened_by_their_loader(tmp_path: Path) -> None:
    for k, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", RGB[k])
    data = load_dataset(DatasetFolder(str(tmp_path), loader=np.load, extensions=(".npy",)))
    assert (pixels(data) == RGB[:2]).all()
    assert (data.class_names, data.label(1)) == (("a", "b"), 1)


def test_parts_of_a_torch_data_set_are_parts_of_its_pictures(folder: Path) -> None:
    theirs = ImageFolder(str(folder), transform=ToTensor())
    part = TorchSubset(theirs, [7, 1, 4])
    data = load_dataset(part)
    assert [data.label(k) for k in range(3)] == [theirs.targets[k] for k in (7, 1, 4)]
    assert [folder / data.item_name(k) for k in range(3)] == [Path(theirs.samples[k][0]) for k in (7, 1, 4)]
    assert data.source.startswith("memory:subset-")
    first, second = random_split(theirs, [6, 6], torch.Generator().manual_seed(0))
    assert load_dataset(first).name != load_dataset(second).name
    assert sorted(load_dataset(first).item_id(k) for k in range(6)) == sorted(load_dataset(theirs).item_id(k) for k in first.indices)
    nested = load_dataset(TorchSubset(part, [2]))
    assert nested.label(0) == theirs.targets[4]
    assert attrlib.load_dataset(TorchSubset(Pairs(IMAGES, LABELS), [4, 0]), class_names=["a", "b", "c"]).labels(1) == (2,)
