import random
from collections import Counter
from pathlib import Path

import pytest
from timm.data import ImageNetInfo

from attrlib.data.datasets import load_dataset
from attrlib.data.labels import match_classes, match_notes
from attrlib.errors import DataError

IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""WNIDs with their ImageNet indices, as the README of the data says."""
VALIDATION = Path(__file__).parents[3] / "shared" / "data" / "imagenette" / "val"
HOW = r"name classes by WNID .* by one of the model.s names .* or by index \(0 to \d+\)"


@pytest.fixture(scope="module")
def imagenet() -> tuple[str, ...]:
    """The class names of an ImageNet model, as `Classifier.class_names` holds them."""
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(k) for k in range(1000))


def generic(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


# WNID


def test_wnids_map_onto_an_imagenet_model(imagenet) -> None:
    wnids = random.Random(0).sample(sorted(IMAGENETTE), 10)
    expected = tuple(IMAGENETTE[wnid] for wnid in wnids)
    assert match_classes(wnids, imagenet) == match_classes(wnids, imagenet, by="wnid") == expected
    assert match_classes(["n15075141", "n02012849", "n03126707"], imagenet) == (999, 134, 517)


def test_the_wnids_in_order_map_onto_the_classes_in_order(imagenet) -> None:
    assert match_classes(sorted(ImageNetInfo("imagenet-1k").label_names()), imagenet) == tuple(range(1000))


@pytest.mark.parametrize("form", ["{}_tench", "{}-Chihuahua", "{} tench, Tinca tinca", "{},tench", " {} "])
def test_a_name_may_follow_the_wnid(form: str, imagenet) -> None:
    assert match_classes([form.format("n01440764"), form.format("n03888257")], imagenet) == (0, 701)


@pytest.mark.parametrize("name", ["n1440764", "n014407640", "N01440764", "x n01440764", "n01440764tench", "n00000000", "n०१४४०७६४"])
def test_an_unknown_wnid_is_refused(name: str, imagenet) -> None:
    with pytest.raises(DataError, match="1 of the 2 classes of the data match none of the model's 1000"):
        match_classes(["n03888257", name], imagenet)


def test_a_model_may_name_its_classes_by_wnid() -> None:
    model = ["n03888257", "n99999999_own", "n01440764"]
    assert match_classes(["n01440764", "n03888257", "n99999999"], model) == (2, 0, 1)
    with pytest.raises(DataError, match="'n02102040'"):
        match_classes(["n01440764", "n02102040"], model)


def test_wnids_do_not_match_a_model_with_other_classes(imagenet) -> None:
    for model in (generic(1000), imagenet[:999], imagenet[::-1], ["cat", "dog"]):
        with pytest.raises(DataError, match=HOW):
            match_classes(["n01440764", "n03888257"], model, by="wnid")


@pytest.mark.skipif(not VALIDATION.is_dir(), reason="imagenette is not here")
def test_the_folders_of_imagenette_are_the_classes_in_its_readme(imagenet) -> None:
    data = load_dataset(VALIDATION)
    assert len(data) == 250
    assert dict(zip(data.class_names, match_classes(data.class_names, imagenet), strict=True)) == IMAGENETTE
    assert Counter(data.label(k) for k in range(250)) == dict.fromkeys(range(10), 25)


# Name


@pytest.mark.parametrize(
    "name", ["golden retriever", "Golden Retriever", "golden_retriever", "GOLDEN-RETRIEVER", " golden  retriever ", "golden_-_retriever"]
)
def test_case_underscores_and_hyphens_do_not_matter(name: str, imagenet) -> None:
    assert match_classes([name], imagenet) == match_classes([name], imagenet, by="name") == (207,)
    assert match_classes(["x", name], ["X", "golden-Retriever"]) == (0, 1)


@pytest.mark.parametrize(("name", "index"), [("tench", 0), ("Tinca tinca", 0), ("tench, Tinca tinca", 0), ("tench,tinca tinca", 0)])
def test_one_synonym_or_all_of_them_are_enough(name: str, index: int, imagenet) -> None:
    assert match_classes([name], imagenet) == (index,)


def test_every_name_of_an_imagenet_class_matches_it_or_is_refused_as_ambiguous(imagenet) -> None:
    classes: dict[str, set[int]] = {}
    for k, description in enumerate(imagenet):
        for part in description.split(","):
            classes.setdefault(part.strip().lower().replace("-", " "), set()).add(k)
    alone = {name: min(found) for name, found in classes.items() if len(found) == 1}
    shared = classes.keys() - alone.keys()
    assert {"crane", "maillot", "cardigan"} < shared
    assert match_classes(list(alone), imagenet, by="name") == tuple(alone.values())
    for name in shared:
        with pytest.raises(DataError, match=f"'{name}' is the name of classes"):
            match_classes([name], imagenet, by="name")


@pytest.mark.parametrize(("name", "classes"), [("crane", "134 and 517"), ("Maillot", "638 and 639"), ("harp", "593 and 594")])
@pytest.mark.parametrize("by", ["auto", "name"])
def test_a_name_of_two_classes_is_refused(name: str, classes: str, by: str, imagenet) -> None:
    with pytest.raises(DataError, match=f"'{name}' is the name of classes {classes} of the model; .* by WNID or by index"):
        match_classes(["tench", name], imagenet, by)


def test_the_whole_description_resolves_an_ambiguous_name(imagenet) -> None:
    assert match_classes(["maillot, tank suit", "giant panda"], imagenet) == (639, 388)


def test_accents_may_be_written_either_way() -> None:
    assert match_classes(["cafe\u0301"], ["tea", "Caf\u00e9"]) == (1,)


# Index


def test_folder_names_may_be_indices(imagenet) -> None:
    assert match_classes(["0", "7", "999"], imagenet) == (0, 7, 999)
    assert match_classes(["0000", "0007", "0999", "0010"], imagenet, by="index") == (0, 7, 999, 10)
    assert match_classes(["1", "10", "2"], generic(11)) == (1, 10, 2)


@pytest.mark.parametrize("name", ["1000", "-1", "1.0", "", "٣", "²", "1_0", "9" * 5000, "n01440764"])
def test_an_invalid_index_is_refused(name: str, imagenet) -> None:
    with pytest.raises(DataError, match="1 of the 2 classes") as caught:
        match_classes(["3", name], imagenet, by="index")
    assert len(str(caught.value)) < 500


# Order


def test_order_matches_the_classes_of_the_data_in_sequence() -> None:
    assert match_classes(["b", "c", "a"], ["x", "y", "z"], by="order") == (0, 1, 2)


@pytest.mark.parametrize("count", [2, 4])
def test_order_needs_equal_counts(count: int) -> None:
    with pytest.raises(DataError, match=f"3 classes and the model {count}: classes=order needs equal counts"):
        match_classes(["a", "b", "c"], generic(count), by="order")


# Auto


def test_auto_prefers_wnid_then_name_then_index(imagenet) -> None:
    both = ["x, n01440764", "n01440764 tench"]
    assert match_classes(["n01440764"], both) == (1,)
    assert match_classes(["n01440764"], both, by="name") == (0,)
    digits = ["3", "1", "0", "2"]
    assert match_classes(["0", "1", "2", "3"], digits) == (2, 1, 3, 0)
    assert match_classes(["0", "1", "2", "3"], digits, by="index") == (0, 1, 2, 3)
    assert match_classes(["class_2", "Class 0"], generic(3)) == (2, 0)


def test_auto_matches_by_order_only_for_equally_many_unnamed_classes() -> None:
    wnids = sorted(IMAGENETTE)
    assert match_classes(wnids, generic(10)) == tuple(range(10))
    assert match_classes(["2", "1", "0"], generic(3)) == (2, 1, 0)
    for model in (generic(11), generic(9), [*generic(9), "other"]):
        with pytest.raises(DataError, match=HOW):
            match_classes(wnids, model)


def test_one_way_must_fit_all_classes(imagenet) -> None:
    for names in (["n01440764", "goldfish"], ["goldfish", "2"], ["n01440764", "2"]):
        with pytest.raises(DataError, match="1 of the 2 classes"):
            match_classes(names, imagenet)


def test_the_error_names_the_first_classes_that_do_not_fit_the_best_way(imagenet) -> None:
    names = ["tench", "one", "goldfish", "two", "three", "four", "crane"]
    with pytest.raises(DataError, match=rf"4 of the 7 classes .* 1000: 'one', 'two', 'three', \.\.\.; {HOW}, or leave them out$"):
        match_classes(names, imagenet)
    with pytest.raises(DataError, match=r"2 of the 2 classes .*: 'wolf', 'lynx'; name .* or choose classes=order$"):
        match_classes(["wolf", "lynx"], ["cat", "dog"], "name")


def test_long_names_are_shortened_in_errors(imagenet) -> None:
    with pytest.raises(DataError) as caught:
        match_classes(["x" * 10_000, "y" * 10_000], imagenet)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("by", ["auto", "wnid", "name", "index"])
def test_data_without_classes_map_to_none(by: str, imagenet) -> None:
    assert match_classes((), imagenet, by) == ()


def test_an_unknown_way_is_refused(imagenet) -> None:
    with pytest.raises(DataError, match=r"unknown way to match classes 'names'\. Did you mean name"):
        match_classes(["tench"], imagenet, by="names")


# Two classes


def test_two_classes_of_other_names_match_two_classes_by_order() -> None:
    assert match_classes(["hund", "katze"], ["cat", "dog"]) == (0, 1)
    assert match_classes(["dog", "cat"], ["cat", "dog"]) == (1, 0)
    assert match_classes(["1", "0"], ["cat", "dog"]) == (1, 0)


@pytest.mark.parametrize("names", [["cat", "wolf"], ["wolf", "cat"], ["0", "wolf"]])
def test_one_name_that_matches_rules_the_order_out(names: list[str]) -> None:
    with pytest.raises(DataError, match=r"1 of the 2 classes of the data match none .*: 'wolf'"):
        match_classes(names, ["dog", "cat"])


@pytest.mark.parametrize(("names", "classes"), [(["healthy", "sick"], (0, 1)), (["sick", "sound"], (1, 0)), (["Sick", "not sick"], (1, 0))])
def test_of_one_logit_with_the_name_of_one_class_the_other_is_the_other(names: list[str], classes: tuple[int, ...]) -> None:
    assert match_classes(names, ["not sick", "sick"]) == match_classes(names, ["not sick", "sick"], "name") == classes
    assert match_notes(names, ["not sick", "sick"]) == ()


@pytest.mark.parametrize("names", [["train", "val"], ["Test", "TRAIN"], ["dev", "valid"], ["testing", "validation"]])
@pytest.mark.parametrize("model", [["cat", "dog"], ["class 0", "class 1"]])
@pytest.mark.parametrize("by", ["auto", "order"])
def test_names_of_splits_never_match_by_order(names: list[str], model: list[str], by: str) -> None:
    with pytest.raises(DataError, match=f"'{names[0]}' and '{names[1]}' are names of splits|'{names[1]}' and '{names[0]}'"):
        match_classes(names, model, by)


def test_a_class_may_be_called_train() -> None:
    assert match_classes(["bus", "train"], generic(2)) == (0, 1)
    assert match_classes(["train", "test"], ["test", "train"]) == (1, 0)


# Notes


def test_matching_by_name_needs_no_note(imagenet) -> None:
    assert match_notes(["b", "a"], ["a", "b"]) == ()
    assert match_notes(list(IMAGENETTE), imagenet) == ()
    assert match_notes((), imagenet) == ()


@pytest.mark.parametrize("by", ["auto", "order"])
def test_matching_by_order_gives_a_note(by: str) -> None:
    (note,) = match_notes(["a", "b"], generic(2), by)
    assert note.startswith("classes are matched by order")
    assert ("because the model's classes have no names" in note) == (by == "auto")
    assert "'a' is class 0, 'b' is class 1; to name them, put NAME.txt" in note
    assert ", and so on" in match_notes(["a", "b", "c", "d"], generic(4), by)[0]


def test_two_classes_by_order_are_named_with_those_of_the_model() -> None:
    (note,) = match_notes(["hund", "katze"], ["cat", "dog"])
    assert (
        "because none of the two names is one of the model's: 'hund' is class 0 (cat), 'katze' is class 1 (dog); if that is wrong" in note
    )


def test_numbers_whose_order_as_text_differs_name_both_ways() -> None:
    """Folders 0 to 10, as ImageFolder numbers them: `find_classes` sorts the names as text."""
    names = sorted(map(str, range(11)))
    assert names[2] == "10"
    assert match_classes(names, generic(11)) == tuple(map(int, names))
    (note,) = match_notes(names, generic(11))
    assert "matched by number: '0' is class 0, '1' is class 1, '2' is class 2, and so on" in note
    assert "by order, '10' is class 2: choose classes=order if the model was trained on these folders with ImageFolder" in note
    (note,) = match_notes(names, generic(11), "order")
    assert "'0' is class 0, '1' is class 1, '10' is class 2, and so on; by number, '10' is class 10: choose classes=index" in note


def test_numbers_that_match_alike_or_cannot_match_by_order_say_so(imagenet) -> None:
    assert "'1' is class 1; by order, they match alike" in match_notes(["0", "1"], generic(2))[0]
    assert match_notes(["0", "7"], imagenet)[0].endswith(
        "'0' is class 0 (tench), '7' is class 7 (cock); if the model numbers its classes in another way, name those of the data by WNID or name"
    )
    assert match_notes(["0", "1"], generic(2), "index") == match_notes(["0", "1"], generic(2))
