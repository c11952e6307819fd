"""The page Library without a browser: models, data sets, the cache and the machine, and bad input to each."""

import json
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from support.pages import buttons, control, nodes, open_page, press, until, words
from support.waiting import LIMIT, PAUSE

import attrlib
from attrlib.engine.jobs import queue
from attrlib.methods import METHODS
from attrlib.models import Card, Preprocessing
from attrlib.models.architectures import PUBLISHED
from attrlib.models.sources import builder
from attrlib.store import Record, open_store

pytestmark = pytest.mark.usefixtures("own_cache")


def texts(at: AppTest) -> str:
    return words(at, "code")


def tables(at: AppTest) -> list:
    return [d.value for d in at.dataframe]


def settle(at: AppTest) -> AppTest:
    """Run the page until no data set is being opened on it. Other work is waited for by those who began it."""
    return until(at, lambda at: not any("opening" in n.proto.text for n in nodes(at, "progress")))


def start(**query: str) -> AppTest:
    return open_page("library", **query)


def test_models_that_need_no_download_and_the_published_ones():
    at = settle(start())
    ready = next(t for t in tables(at) if "clean" in t)
    assert list(ready["model"]) == [info.name for info in attrlib.list_models()]
    published = next(t for t in tables(at) if "load" in t)
    assert len(published) == len(PUBLISHED) == 16
    assert list(published["file"]) == [own.url for own in PUBLISHED.values()]
    assert published["load"][0] == 'attrlib.load_model("idsds:resnet18")'
    assert "pip" not in texts(at)
    assert at.query_params["section"] in ("models", ["models"])


def test_a_shipped_model_shows_its_card(tmp_path, monkeypatch):
    card = Card(
        "attrlib:small_x_resnet18_w16", ("a", "b"), Preprocessing((128, 128)), "birds:train", {"epochs": 5}, {"grid": 4, "baseline": "zeros"},
        {"data": "birds:test", "clean": {"mean": 0.591, "low": 0.56, "high": 0.62}}, 702896, pair="own_plain", digest="abc",
    )  # fmt: skip
    (tmp_path / "own.json").write_text(card.text())
    (tmp_path / "own.safetensors").touch()
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path))
    at = settle(start())
    assert "59.1 % [56.0 %, 62.0 %]" in texts(at)
    facts = next(t for t in tables(at) if "property" in t).set_index("property")["value"]
    assert facts["deletion-tuned"] == "grid=4, baseline=zeros"
    assert facts["parameters"] == "702,896"
    (tmp_path / "own.json").write_text("{}")
    assert "is not a model card" in texts(settle(at))


@pytest.fixture
def added_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a model that was added as `mine`."""
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "1")
    torch.save(builder("attrlib:small_resnet10_w16")({"num_classes": 2}, False).module.state_dict(), tmp_path / "mine.pth")
    model = attrlib.load_model("attrlib:small_resnet10_w16", "cpu", checkpoint=tmp_path / "mine.pth", class_names=("a", "b"), fit="squash")
    return attrlib.add_model(model, "mine", data="things").with_suffix(".pth")


def test_an_added_model_is_listed_with_its_card_and_removed(added_model: Path) -> None:
    at = settle(start())
    table = next(t for t in tables(at) if "clean" in t).set_index("model")
    assert table.loc["mine", "trained on"] == "things"
    assert table.loc["mine", "added"] == "yes"
    assert list(table[table["added"] == "yes"].index) == ["mine"]
    control(at, "l_card").set_value("mine")
    at = settle(at)
    facts = next(t for t in tables(at) if "property" in t).set_index("property")["value"]
    assert "squash" in facts["input"]
    assert added_model.exists()
    assert "for everyone" in texts(at)
    at.button(key="l_remove").click()
    at = settle(at)
    assert not added_model.exists()
    assert "mine" not in list(next(t for t in tables(at) if "clean" in t)["model"])
    assert "mine" not in control(at, "l_card").options


def test_a_model_is_removed_only_where_the_operator_allows_it(added_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = settle(start())
    control(at, "l_card").set_value("mine")
    at = settle(at)
    button = at.button(key="l_remove")
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "no")
    button.click()
    settle(at)
    assert added_model.exists()


def test_a_card_whose_weights_are_gone_and_one_that_is_damaged_are_named(added_model: Path) -> None:
    added_model.unlink()
    (added_model.parent / "other.json").write_text("{}")
    said = texts(settle(start()))
    assert "the weights of the added model mine are gone" in said.replace("The weights", "the weights")
    assert "other.json is not a model card" in said


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("timm:resnet18*", "timm:resnet18"), ("torchvision:vgg11*", "torchvision:vgg11_bn"), ("vit_tiny", "timm:vit_tiny_patch16_224")],
)
def test_models_are_searched_by_pattern(pattern, says):
    at = settle(start())
    at.text_input(key="l_pattern").set_value(pattern)
    found = next(t for t in tables(settle(at)) if "source" in t)
    assert says in set(found["name"])


@pytest.mark.parametrize("pattern", ["resnet5000", "[", "<script>*", "*" * 50 + "!"])
def test_a_search_without_a_match_says_so(pattern):
    at = settle(start())
    at.text_input(key="l_pattern").set_value(pattern)
    assert "No model matches" in texts(settle(at))


def test_a_wide_search_lists_the_first():
    at = settle(start())
    at.text_input(key="l_pattern").set_value("timm:*")
    at = settle(at)
    assert "the first 200 are listed" in texts(at)


def test_a_download_that_fails_says_why(monkeypatch):
    def fail(name, on_progress):
        on_progress(1 << 20, 2 << 20)
        raise attrlib.ModelError(f"{name} could not be downloaded; connect to the internet")

    monkeypatch.setattr("pages.library.models.download", fail)
    at = settle(start())
    at.selectbox(key="l_checkpoint").set_value("vgg11")
    at = settle(at)
    at.button(key="l_download").click()
    at = settle(at)
    assert queue("downloads").find("vgg11").wait(LIMIT)
    assert "dsds:vgg11 could not be downloaded" in texts(settle(at))


def test_pictures_of_a_data_set_are_opened_when_asked_for(monkeypatch):
    opened = []
    real = attrlib.load_dataset
    monkeypatch.setattr("pages.library.data.load_data", lambda source: opened.append(source) or real(source))
    at = settle(start(section="data"))
    names = texts(at)
    assert all(info.name in names for info in attrlib.list_datasets())
    assert opened == []
    assert not nodes(at, "image")
    at.button(key="l_show_photos").click()
    at = settle(at)
    assert opened == ["photos"]
    assert len(nodes(at, "image")) + len(nodes(at, "imgs")) == 6


def test_a_folder_of_ones_own_and_one_that_is_not_there(tmp_path):
    (tmp_path / "mine" / "tabby").mkdir(parents=True)
    Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "mine" / "tabby" / "1.png")
    (tmp_path / "mine" / "tabby" / "2.png").write_bytes(b"no picture")
    (tmp_path / "mine" / "tabby" / "3.gif").touch()
    at = settle(start(section="data"))
    at.text_input(key="l_folder").set_value(str(tmp_path / "mine"))
    at = settle(at)
    at.button(key=f"l_show_{tmp_path / 'mine'}").click()
    at = settle(at)
    assert "2 images, 1 class" in texts(at)
    assert "1 file left out: 1 .gif" in texts(at)
    assert "tabby" in texts(at)
    at.text_input(key="l_folder").set_value(str(tmp_path / "yours"))
    at = settle(at)
    at.button(key=f"l_show_{tmp_path / 'yours'}").click()
    at = settle(at)
    assert "nknown data set" in texts(at)
    assert not at.exception


def fill() -> None:
    """A score, a map and a run."""
    store = open_store()
    store.add_records("key", {"kind": "score"}, {"item": Record(0.5)})
    store.add_maps({"map": torch.rand(1, 64, 64)})
    store.save_run(
        "0123456789abcdef",
        {"kind": "score", "title": "python -m attrlib score --data birds"},
        {"sds|IxG": {"key": "key", "items": ["item"]}},
    )


def test_an_empty_cache_says_what_to_do():
    at = settle(start(section="cache"))
    assert "No runs yet" in texts(at)


def test_the_cache_shows_sizes_and_runs_and_is_verified():
    fill()
    at = settle(start(section="cache"))
    assert [m.label for m in at.metric] == ["Maps", "Results", "Runs"]
    assert at.metric[0].delta == "1 stored"
    runs = next(t for t in tables(at) if "command" in t)
    assert runs["command"][0] == "python -m attrlib score --data birds"
    assert runs["key"][0] == "0123456789ab"
    at.button(key="l_verify").click()
    assert "Verified: maps 1, damaged 0" in texts(settle(at))


def test_pruning_needs_a_confirmation():
    fill()
    at = settle(start(section="cache"))
    assert at.button(key="l_prune").disabled
    at.checkbox(key="l_everything").set_value(True)
    at = settle(at)
    assert at.button(key="l_prune").disabled
    at.checkbox(key="l_sure").set_value(True)
    at = settle(at)
    at.button(key="l_prune").click()
    at = settle(at)
    assert "Freed" in texts(at)
    assert "No runs yet" in texts(at)
    assert not at.checkbox(key="l_sure").value
    assert open_store().sizes().records == 0


def test_maps_alone_are_pruned_down_to_a_size():
    fill()
    at = settle(start(section="cache"))
    at.number_input(key="l_keep").set_value(0.0)
    at.checkbox(key="l_sure").set_value(True)
    at = settle(at)
    at.button(key="l_prune").click()
    settle(at)
    sizes = open_store().sizes()
    assert (sizes.maps, sizes.records, sizes.runs) == (0, 1, 1)


def test_a_cache_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "file" / "below"))
    at = settle(start(section="cache"))
    assert "cannot be created" in texts(at)
    assert not at.exception


def test_the_machine_is_described():
    at = settle(start(section="device"))
    assert [m.label for m in at.metric][:1] == ["Device"]
    assert {"System memory", "This process", "Map cache"} <= {m.label for m in at.metric}


def test_nonsense_in_the_link_is_named_and_the_models_are_shown():
    at = settle(start(section="<b>basement</b>"))
    assert "There is no section '<b>basement</b>'" in texts(at)
    assert "Models without download" in texts(at)


@pytest.mark.parametrize("section", ["models", "data", "cache", "device"])
def test_every_section_can_be_reproduced(section):
    at = settle(start(section=section))
    shown = [c.value for c in at.code]
    assert any(f"section={section}" in text for text in shown)
    assert json.dumps(shown).count("python") >= 1


def examined(at: AppTest) -> AppTest:
    return until(at, lambda at: "Cancel" not in buttons(at))


def test_the_doctor_says_what_is_valid_where_and_why_not(monkeypatch):
    monkeypatch.setattr(METHODS, "left_out", {"/own/mine.py": "SyntaxError in line 3"})
    at = settle(start(section="doctor"))
    assert "/own/mine.py: SyntaxError in line 3" in texts(at)
    assert f"run {3 * len(METHODS)} probes" in texts(at)
    at.multiselect(key="l_doctor_methods").set_value(["Sobel", "Rollout"])
    at = settle(at)
    assert "python -m attrlib doctor --model efficientnet_lite0 --methods Rollout,Sobel --images 100" in texts(at).replace(
        "Sobel,Rollout", "Rollout,Sobel"
    )
    at = examined(press(at, "Examine"))
    table = tables(at)[0].set_index("method")
    assert list(table.columns) == ["family", "Input 224×224", "Middle 28×28", "Final 7×7", "remarks"]
    assert list(table.loc["Rollout"][1:4]) == ["not defined"] * 3
    assert all(text.endswith("s") for text in table.loc["Sobel"][1:4])
    assert "has no self-attention" in table.loc["Rollout"]["remarks"]
    assert "No method left hooks" in texts(at)
    assert "**Rollout**: efficientnet" in texts(at)
    at.segmented_control(key="l_doctor_view_100").set_value("Memory for 100")
    table = tables(settle(at))[0].set_index("method")
    assert [text[-2:] for text in table.loc["Sobel"][1:4]] == ["MB"] * 3


def test_a_doctor_that_is_stopped_or_asked_of_no_model_says_so(monkeypatch, request):
    def endless(_model, _methods, images, on_progress):
        while not over.wait(PAUSE):
            on_progress(3, 600, "IG@Input")

    over = threading.Event()
    request.addfinalizer(over.set)
    monkeypatch.setattr("pages.library.doctor.doctor", endless)
    at = settle(start(section="doctor"))
    at.number_input(key="l_doctor_images").set_value(12)
    at = settle(at)
    at = examined(press(until(press(at, "Examine"), lambda at: "Cancel" in buttons(at)), "Cancel"))
    assert "It was cancelled" in texts(at)
    other = start(section="doctor")
    other.session_state["l_doctor_model"] = "timm:nothing"
    assert "nknown timm model" in texts(settle(other))
