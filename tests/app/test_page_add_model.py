"""The dialog that adds a model: every step, what goes wrong in it, and who may use it."""

import io
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from support.pages import buttons, control, link, nodes, open_page, press, run, settle, titles, type_into, until, words
from support.waiting import until as wait_until

from attrlib.engine.jobs import queue
from attrlib.models.added import add_model, added
from attrlib.models.cards import Card
from attrlib.models.sources import builder

NAME = "attrlib:small_resnet10_w16"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "1")
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(tmp_path))
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "my net.pth", 3)


def checkpoint(path: Path, outputs: int, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    torch.save(builder(NAME)({"num_classes": outputs}, False).module.state_dict(), path)
    return path


def opened(page: str = "", button: str = "model_add", **query: object) -> AppTest:
    """A page with the dialog open."""
    at = open_page(page, **query).run()
    at.button(key=button).click()
    return run(at)


def uploaded(at: AppTest, file: Path, name: str = "") -> AppTest:
    at.file_uploader(key="n_file").upload(name or file.name, file.read_bytes(), "application/octet-stream")
    return settle(run(at))


def described(at: AppTest) -> AppTest:
    type_into(at, "n_architecture", NAME)
    return settle(at)


def added_as(at: AppTest, name: str) -> AppTest:
    control(at, "n_name").set_value(name)
    run(at).button(key="n_add").click()
    return until(at, lambda _: name in added())


def test_a_file_becomes_a_model_of_the_list_that_is_chosen_on_the_page(file: Path, folder: Path) -> None:
    at = described(uploaded(opened(methods="IxG"), file))
    assert "3 classes: class 0, class 1, class 2" in words(at)
    at = settle(added_as(at, "mine"))
    assert control(at, "model").value == "mine"
    assert titles(at) == ["Photo", "IxG"]
    assert link(at)["model"] == "mine"
    ours, expected = attrlib.load_model("mine", "cpu"), attrlib.load_model(NAME, "cpu", checkpoint=file)
    assert ours.digest == expected.digest
    assert "mine" in control(open_page("aggregate").run(), "a_model").options


def test_the_uploaded_file_is_removed_when_the_model_is_added_or_the_dialog_closed(file: Path) -> None:
    at = described(uploaded(opened(methods="IxG"), file))
    place = at.session_state["n_upload"].path
    assert place.read_bytes() == file.read_bytes()
    assert " " not in place.name
    added_as(at, "mine")
    wait_until(lambda: not run(at).session_state["n_upload"])
    assert not place.parent.exists()


def test_the_classes_the_input_and_the_outputs_are_in_the_card(file: Path, tmp_path: Path) -> None:
    at = opened(methods="IxG")
    at.segmented_control(key="n_source").set_value("path")
    control(run(at), "n_path").set_value(str(file))
    at = described(settle(at))
    at.segmented_control(key="n_names_from").set_value("list")
    control(run(at), "n_names").set_value("ant\nbee\n\ncat")
    control(at, "n_size").set_value("48x64")
    control(at, "n_normalisation").set_value("−1 to 1")
    control(at, "n_fit").set_value("squash")
    control(at, "n_interpolation").set_value("bicubic")
    control(at, "n_crop").set_value(1.0)
    control(at, "n_outputs").set_value("sigmoid")
    control(at, "n_trained_on").set_value("insects")
    control(at, "n_copy").set_value(False)
    control(at, "n_tuned").set_value(True)
    at = settle(at)
    assert "48x64 px, mean 0.5/0.5/0.5, std 0.5/0.5/0.5, bicubic, crop 1, squash" in words(at)
    added_as(at, "insects")
    card = Card.read(added()["insects"])
    assert (card.class_names, card.data, card.outputs, card.weights) == (("ant", "bee", "cat"), "insects", "sigmoid", str(file))
    own = card.preprocessing
    assert (own.size, own.mean, own.fit, own.interpolation, own.crop) == ((48, 64), (0.5,) * 3, "squash", "bicubic", 1.0)
    assert card.deletion


def test_other_mean_and_std_are_typed(file: Path) -> None:
    at = described(uploaded(opened(methods="IxG"), file))
    control(at, "n_normalisation").set_value("other numbers")
    control(run(at), "n_mean").set_value("0.1/0.2/0.3")
    control(at, "n_std").set_value("0.4/x")
    at = settle(at)
    assert "write one number for each channel" in words(at)
    assert at.button(key="n_add").disabled
    control(at, "n_std").set_value("0.4/0.5/0.6")
    assert "mean 0.1/0.2/0.3, std 0.4/0.5/0.6" in words(settle(at))


def test_class_names_come_from_class_folders_a_text_file_or_are_numbers(file: Path, tmp_path: Path) -> None:
    for name in ("zebra", "ape", "mole"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "animals" / name / "a.png")
    at = described(uploaded(opened(methods="IxG"), file))
    at.segmented_control(key="n_names_from").set_value("data")
    type_into(run(at), "n_names_data", str(tmp_path / "animals"))
    assert "3 classes: ape, mole, zebra" in words(settle(at))
    at.segmented_control(key="n_names_from").set_value("list")
    run(at).file_uploader(key="n_names_file").upload("names.txt", "\ufeffone\ntwo\nthree\n".encode(), "text/plain")
    assert "3 classes: one, two, three" in words(settle(at))
    at.segmented_control(key="n_names_from").set_value("numbers")
    assert "3 classes: class 0, class 1, class 2" in words(settle(at))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda at: type_into(at, "n_architecture", "resnet5000"), "unknown model"),
        (lambda at: type_into(at, "n_architecture", "attrlib:small_vgg11_w16"), "does not fit this architecture"),
        (lambda at: control(at, "n_size").set_value("wide"), "'wide' is not valid"),
        (lambda at: at.segmented_control(key="n_names_from").set_value("list"), "write 3 names"),
        (lambda at: control(at, "n_outputs").set_value("binary"), "with one output"),
        (lambda at: control(at, "n_name").set_value("a/b"), "is not a valid name"),
        (lambda at: control(at, "n_name").set_value("efficientnet_lite0"), "there is already a model"),
    ],
    ids=["architecture", "weights", "size", "classes", "outputs", "name", "name taken"],
)
def test_what_is_wrong_in_a_step_is_said_there_and_the_rest_stays(file: Path, act, says: str) -> None:
    at = described(uploaded(opened(methods="IxG"), file))
    control(at, "n_trained_on").set_value("insects")
    act(at)
    at = settle(at)
    assert says.lower() in words(at).lower()
    assert at.button(key="n_add").disabled
    assert control(at, "n_trained_on").value == "insects"
    assert at.session_state["n_upload"] is not None
    assert not added()


def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>not a checkpoint</html>")
    at = uploaded(opened(methods="IxG"), tmp_path / "page.pth")
    assert len(at.error) == 1
    assert "page.pth is not a checkpoint" in words(at)
    at = described(uploaded(at, checkpoint(tmp_path / "good.pth", 3)))
    assert "3 classes" in words(at)


def test_a_path_outside_the_roots_is_refused_whether_it_exists_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    outside = checkpoint(tmp_path / "outside.pth", 3)
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(tmp_path / "inside"))
    at = opened(methods="IxG")
    at.segmented_control(key="n_source").set_value("path")
    said = []
    for path in (outside, tmp_path / "nothing.pth"):
        control(run(at), "n_path").set_value(str(path))
        said.append(words(run(at)).replace(path.name, "NAME"))
    assert "is not in a folder that this app may read" in said[0]
    assert said[0] == said[1]


def test_a_photo_is_shown_as_the_network_sees_it_with_what_it_reads_off(file: Path) -> None:
    at = described(uploaded(opened(methods="IxG"), file))
    control(at, "n_size").set_value("40x80")
    at = settle(at)
    assert "40x80 px" in str(titles(at)) + str([n.proto.body for n in nodes(at, "html")])
    model = attrlib.load_model(NAME, "cpu", checkpoint=file, input_size=(40, 80))
    photo = attrlib.open_image("sample:cat")
    best = float(model(model.preprocess(photo.image)[None]).softmax(1).max())
    assert any(f"{best:.2f}" in n.proto.body for n in nodes(at, "html") if "Most probable" in n.proto.body)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    at.file_uploader(key="n_photo_file").upload("red.png", picture.getvalue(), "image/png")
    assert "red.png" in str([n.proto.body for n in nodes(settle(run(at)), "html")])


def test_models_are_added_only_where_the_operator_allows_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "0")
    at = open_page(methods="IxG").run()
    at.button(key="model_add").click()
    for source in ("upload", "path"):
        at.session_state["n_source"] = source
        assert "ATTRLIB_ADD_MODELS" in words(run(at))
        assert at.segmented_control(key="n_source").value == "prompts"
        assert "n_file" not in str(at.file_uploader)
        assert "n_path" not in str(at.text_input)


@pytest.mark.parametrize(
    ("page", "button", "chooser"),
    [("aggregate", "a_model_add", "a_model"), ("scores", "s_models_add", "s_models"), ("studies", "t_models_add", "t_models")],
)
def test_every_page_that_chooses_a_model_has_the_dialog(page: str, button: str, chooser: str, file: Path) -> None:
    at = opened(page, button)
    before = control(at, chooser).value
    at = added_as(described(uploaded(at, file)), "mine")
    chosen = control(run(at), chooser).value
    assert chosen == ([*before, "mine"] if isinstance(before, list) else "mine")


def test_two_sessions_do_not_disturb_each_other(file: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other.pth", 5, seed=1)
    first, second = opened(methods="IxG"), opened(methods="IxG")
    first, second = described(uploaded(first, file)), described(uploaded(second, other, file.name))
    assert "3 classes" in words(settle(first))
    assert "5 classes" in words(second)
    added_as(first, "first")
    added_as(second, "second")
    assert [len(Card.read(added()[name]).class_names) for name in ("first", "second")] == [3, 5]


def test_a_session_keeps_its_model_when_another_one_gives_up_the_same_file(file: Path) -> None:
    sessions = []
    for _ in range(2):
        at = opened(methods="IxG")
        at.segmented_control(key="n_source").set_value("path")
        control(run(at), "n_path").set_value(str(file))
        sessions.append(described(settle(at)))
    first, second = (at.session_state["n_candidate"] for at in sessions)
    control(sessions[0], "n_size").set_value("48")
    settle(sessions[0])
    assert queue("models").find(first) is None
    assert queue("models").find(second) is not None


def test_a_model_that_was_replaced_under_its_name_is_loaded_again(file: Path, tmp_path: Path) -> None:
    add_model(attrlib.load_model(NAME, "cpu", checkpoint=file), "mine")
    at = settle(open_page(model="mine", methods="IxG"))
    before = [n.value for n in nodes(at, "image")]
    attrlib.remove_model("mine")
    add_model(attrlib.load_model(NAME, "cpu", checkpoint=checkpoint(tmp_path / "other.pth", 3, seed=1)), "mine")
    assert [n.value for n in nodes(settle(run(at)), "image")][1:] != before[1:]
    assert "Add a model" in buttons(at)
    assert press(at, "Add a model")


def test_what_a_file_tells_is_filled_in(tmp_path: Path) -> None:
    state = builder("timm:resnet10t")({"num_classes": 3}, False).module.state_dict()
    args = {"img_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.9}
    torch.save({"state_dict": state, "classes": ["ant", "bee", "cat"], "args": args}, tmp_path / "told.pth")
    at = uploaded(opened(methods="IxG"), tmp_path / "told.pth")
    assert control(at, "n_architecture").value == "timm:resnet10t"
    assert "3 classes: ant, bee, cat" in words(at)
    assert [control(at, f"n_{field}").value for field in ("size", "normalisation", "interpolation", "crop", "name")] == [
        "64x64", "−1 to 1", "bilinear", 0.9, "told",
    ]  # fmt: skip
    assert "64x64 px, mean 0.5/0.5/0.5, std 0.5/0.5/0.5, bilinear, crop 0.9" in words(at)


def test_one_of_several_sets_of_weights_is_chosen_by_its_key(tmp_path: Path) -> None:
    one, two = (builder(NAME)({"num_classes": n}, False).module.state_dict() for n in (3, 4))
    content = {**{f"model.{k}": v for k, v in one.items()}, **{f"ema_model.{k}": v for k, v in two.items()}}
    torch.save(content, tmp_path / "two.pth")
    at = described(uploaded(opened(methods="IxG"), tmp_path / "two.pth"))
    assert "choose one" in words(at)
    control(at, "n_part").set_value("ema_model")
    assert "4 classes" in words(settle(at))


def test_the_folder_of_a_whole_model_is_named_as_a_model_to_type(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text('{"model_type": "vit"}')
    at = opened(methods="IxG")
    at.segmented_control(key="n_source").set_value("path")
    control(run(at), "n_path").set_value(str(tmp_path / "whole"))
    assert f"type hf:{tmp_path / 'whole'} as the model" in words(run(at))


class Bright(torch.nn.Module):
    """Tells dark pictures from bright ones if grey is 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = 4 * images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_the_input_is_checked_on_data_and_the_better_preprocessing_is_used_on_a_click(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(24):
        (tmp_path / "grey" / str(int(k >= 12))).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (60 + 6 * k,) * 3).save(tmp_path / "grey" / str(int(k >= 12)) / f"{k}.png")

    def load(_name: str, checkpoint: str, **options: object) -> attrlib.Classifier:
        del checkpoint
        means = {name: options.get(name, default) for name, default in (("mean", (0.0,) * 3), ("std", (1.0,) * 3))}
        return attrlib.wrap_model(Bright(), 8, crop=1.0, **means)  # type: ignore[arg-type]

    monkeypatch.setattr("pages.shared.adding.candidate.load_model", load)
    at = described(uploaded(opened(methods="IxG"), file))
    type_into(at, "n_data", str(tmp_path / "grey"))
    run(at).button(key="n_check").click()
    at = settle(run(at))
    assert "Accuracy 50 %" in words(at)
    assert "the accuracy is 100 % instead of 50 %" in words(at)
    at.button(key="n_use").click()
    at = settle(run(at))
    assert control(at, "n_normalisation").value == "−1 to 1"
    assert "mean 0.5/0.5/0.5" in words(at)
    at.button(key="n_check").click()
    at = settle(run(at))
    assert "Accuracy 100 %" in words(at)
    assert "n_use" not in {b.key for b in at.button}


def test_data_whose_classes_do_not_match_are_refused_and_a_number_has_no_accuracy(file: Path, tmp_path: Path) -> None:
    for name in ("zebra", "ape"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "animals" / name / "a.png")
    at = described(uploaded(opened(methods="IxG"), file))
    type_into(at, "n_data", str(tmp_path / "animals"))
    run(at).button(key="n_check").click()
    assert "2 of the 2 classes of the data match none" in words(settle(run(at)))
    at = described(uploaded(opened(methods="IxG"), checkpoint(tmp_path / "one.pth", 1)))
    control(at, "n_outputs").set_value("scalar")
    at = settle(at)
    assert "1 number: value" in words(at)
    assert "neither an accuracy nor a probability" in words(at)


def test_the_limit_of_uploads_is_that_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.shared.roots.upload_limit", lambda: 30)
    uploader = opened(methods="IxG").file_uploader(key="n_file")
    assert "up to 30 MB" in uploader.label
    assert uploader.proto.max_upload_size_mb == 30


@pytest.mark.parametrize(
    ("page", "fields"),
    [
        ("aggregate", {"setting": "difull:confidence=0.0"}),
        ("scores", {"protocols": "sds"}),
    ],
)
def test_pages_of_runs_show_the_notes_of_their_models(page: str, fields: dict[str, str], tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "birds.pth", 25)
    at = open_page(page, model=f"{NAME}@{file}", data="birds", methods="IxG", limit=2, **fields)
    until(at, lambda at: "assumed the preprocessing" in words(at).lower())
