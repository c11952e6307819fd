"""The page Aggregate without a browser: from the link to the images of a bin, the dials, a custom grid, and bad input."""

import io
import json
import shutil
import threading
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from support.pages import buttons, control, link, nodes, open_page, pictures, press, run, until, waits
from support.pages import words as texts
from support.waiting import PAUSE

from attrlib.models.architectures import ARCHITECTURES
from attrlib.specs import parse_methods

NET = "attrlib:small_x_resnet18_w16"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "white": (220, 220, 220)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `0` to `3` of noisy colours, and a checkpoint that tells them apart: least squares on its features."""
    root = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    pictures: list[list[Image.Image]] = []
    for k, colour in enumerate(COLOURS.values()):
        (root / "data" / str(k)).mkdir(parents=True)
        values = [(draw.uniform(-30, 30, (128, 128, 3)) + colour).clip(0, 255).astype(np.uint8) for _ in range(8)]
        pictures.append([Image.fromarray(v) for v in values])
        for i, picture in enumerate(pictures[-1]):
            picture.save(root / "data" / str(k) / f"{i}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ARCHITECTURES[NET.removeprefix("attrlib:")].build(len(COLOURS)).eval()
    preprocess = attrlib.wrap_model(net, 128, crop=1.0).preprocess
    features: list[torch.Tensor] = []
    hook = net.fc.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0].flatten(1).double()))
    with torch.no_grad():
        net(torch.stack([preprocess(own[i]) for own in pictures for i in range(3)]))
    hook.remove()
    wanted = torch.eye(len(COLOURS), dtype=torch.float64).repeat_interleave(3, 0)
    with torch.no_grad():
        net.fc.weight.copy_((20 * torch.linalg.pinv(features[0], rtol=1e-3) @ wanted).T.view_as(net.fc.weight))
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, root / "net.safetensors")
    return root


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    monkeypatch.setenv("ATTRLIB_CACHE", str(files / "cache"))


def start(files: Path, **query: str) -> AppTest:
    given = dict(
        data=str(files / "data"), setting="difull:confidence=0.0", model=NET, checkpoint=str(files / "net.safetensors"),
        methods="IxG@Input,IxG@Final", limit="5", seed="0",
    )  # fmt: skip
    return open_page("aggregate", **(given | query))


def settle(at: AppTest) -> AppTest:
    """Run the page until nothing on it is still to come."""
    return until(at, lambda at: not waits(at) and not at.session_state.get("a_waiting"))


def started(at: AppTest) -> AppTest:
    settle(at)
    for label in ("Start", "Resume"):
        if label in buttons(at):
            return settle(press(at, label))
    return at


def rows(at: AppTest) -> list[str]:
    """The heads of the rows."""
    return [str(m.value).replace("\\", "") for m in at.markdown if "&nbsp;" in str(m.value)]


def mean(row: str) -> float:
    return float(row.split("mean ")[1].split(" ")[0])


def test_first_load_offers_what_needs_no_download():
    at = run(open_page("aggregate"))
    assert at.session_state["a_data"] in ("photos", "birds")
    assert "Start" in buttons(at)
    assert "arxiv.org/abs/2205.10435" in texts(at)


def test_from_the_cost_to_rows_bins_and_their_images(files):
    at = settle(start(files, seed="1"))
    assert "10 results" in texts(at)
    assert rows(at) == []
    at = started(at)
    assert [r.split("**")[1] for r in rows(at)] == ["IxG", "IxG"]
    assert "Input 256×256" in rows(at)[0]
    assert "Final 8×8" in rows(at)[1]
    assert mean(rows(at)[0]) == 1.0
    assert len(pictures(at)) == 2 * 8
    assert len(at.get("plotly_chart")) == 1
    assert at.button(key="a_bin_0_0").disabled
    at.button(key="a_bin_1_2").click()
    at = settle(at)
    assert "IxG at Final, bin 5–50 %: 2 of 5" in texts(at)
    assert "**1.000**" in texts(at) or "**0.9" in texts(at)
    assert len(pictures(at)) == 2 * 8 + 2


def test_an_item_is_marked_among_all_of_its_row(files):
    at = started(start(files, methods="IxG@Final"))
    at.session_state["a_bin"] = ("IxG@Final", None, 3)
    at = settle(at)
    assert "all 5, best first" in texts(at)
    assert texts(at).count(":material/ads_click:") == 1
    assert {name: link(at)[name] for name in ("row", "item")} == {"row": "IxG@Final", "item": "3"}
    again = settle(start(files, methods="IxG@Final", row="IxG@Final", bin="2"))
    assert "bin 5–50 %: 2 of 5" in texts(again)
    assert not settle(start(files, methods="IxG@Final", row="IG@Nowhere", bin="77", item="x")).warning


def test_an_unreadable_picture_keeps_its_score_and_says_why(files, tmp_path):
    shutil.copytree(files / "data", tmp_path / "data")
    data = attrlib.load_dataset(tmp_path / "data")
    model = attrlib.load_model(NET, checkpoint=str(files / "net.safetensors"))
    score = attrlib.score("sds:target=prediction", model, "IxG", data, layer="Final", limit=5, seed=0)
    order = np.argsort(-score.values, kind="stable")[2:]
    at = started(start(files, data=str(tmp_path / "data"), setting="sds:target=prediction", methods="IxG@Final"))
    at = settle(at)
    (path,) = score.items[order[0]]
    Path(list(data.paths())[path]).write_bytes(b"no picture")
    at.button(key="a_bin_0_3").click()
    at = settle(at)
    marks = [str(c.value) for c in nodes(at, "caption") if str(c.value).startswith("**")]
    assert [mark.split("**")[1] for mark in marks] == [f"{score.values[k]:.3f}" for k in order]
    assert [":material/block:" in mark for mark in marks] == [True, False, False]
    assert len({str(picture) for picture in pictures(at)[-3:]}) == 3


def test_a_link_to_what_is_known_shows_it_without_a_click(files):
    started(start(files))
    at = settle(start(files))
    assert len(rows(at)) == 2
    assert "Run again" in buttons(at)


def test_the_dial_moves_maps_and_scores_and_computes_nothing(files, monkeypatch):
    at = started(start(files))
    before = pictures(at)
    monkeypatch.setattr("attrlib.engine.evaluator.attribute_each", lambda *_args, **_options: 1 / 0)
    at.select_slider(key="a_smoothing").set_value(65)
    at = settle(at)
    assert "smoothed K = 65" in rows(at)[0]
    assert mean(rows(at)[0]) < 1.0
    assert pictures(at) != before
    assert link(at)["smoothing"] == "65"
    at.select_slider(key="a_smoothing").set_value(1)
    assert mean(rows(settle(at))[0]) == 1.0


def test_scores_on_the_page_are_those_of_the_library(files):
    at = started(start(files, smoothing="33"))
    model = attrlib.load_model(NET, checkpoint=files / "net.safetensors")
    score = attrlib.score("difull", model, "IxG", files / "data", limit=5, confidence=0.0, smoothing=33)
    assert mean(rows(at)[0]) == pytest.approx(score.mean, abs=0.006)


def test_signed_averages_and_another_target_cell(files):
    at = started(start(files))
    positive = pictures(at)
    at.session_state["a_average"] = "signed"
    at = settle(at)
    signed = pictures(at)
    assert signed != positive
    assert link(at)["average"] == "signed"


def test_a_run_can_be_cancelled_and_resumed(files, monkeypatch, request):
    at = settle(start(files, seed="7", limit="all", methods="IxG@Input,IxG@Middle,IxG@Final,Occlusion@Final"))
    real, opened = attrlib.engine.evaluator.attribute_each, threading.Event()
    calls: list[object] = []
    request.addfinalizer(opened.set)

    def held(model, methods, images, targets, options, owners):
        calls.append(methods)
        while len(calls) > 2 and not opened.wait(PAUSE):
            options.on_progress(0, 1)
        return real(model, methods, images, targets, options, owners)

    monkeypatch.setattr("attrlib.engine.evaluator.attribute_each", held)
    at = until(press(at, "Start"), lambda at: " of " in "".join(p.proto.text for p in nodes(at, "progress")))
    at = settle(press(at, "Cancel"))
    assert "Resume" in buttons(at)
    assert "Cancelled, " in texts(at)
    opened.set()
    at = settle(press(at, "Resume"))
    assert "Run again" in buttons(at)
    assert len(rows(at)) == 4


def test_single_images(files):
    at = started(start(files, setting="sds:target=prediction"))
    assert "Input 128×128" in rows(at)[0]
    at.button(key="a_bin_0_2").click()
    assert "bin 5–50 %" in texts(settle(at))


def test_a_grid_of_ones_own_shows_every_methods_map_and_score(files):
    at = settle(start(files, methods="IxG@Input,Grad-CAM@Final,Sobel@Input"))
    at.session_state["a_mode"] = "custom grid"
    at = settle(at)
    heads = [str(m.value) for m in at.markdown if "\n:gray" in str(m.value)]
    assert [h.split("**")[1] for h in heads] == ["Grid", "IxG", "Grad-CAM", "Sobel"]
    assert len(pictures(at)) == 4
    assert "localisation **1.000**" in texts(at)
    at.selectbox(key="a_own_0").set_value("sample:rocket")
    at.select_slider(key="a_smoothing").set_value(65)
    at = settle(at)
    assert "localisation **1.000**" not in texts(at)


def test_photos_of_ones_own_go_into_a_grid_and_bad_ones_are_named(files):
    at = settle(start(files, methods="IxG"))
    at.session_state["a_mode"] = "custom grid"
    at = settle(at)
    file = io.BytesIO()
    Image.effect_noise((200, 100), 60).save(file, "PNG")
    at.file_uploader[0].upload("mine.png", file.getvalue(), "image/png")
    at = settle(at)
    assert "mine.png" in at.selectbox(key="a_own_0").options
    at.selectbox(key="a_own_0").set_value("mine.png")
    at = settle(at)
    at.file_uploader[0].upload("text.png", b"no picture", "image/png")
    assert "is not a picture" in texts(settle(at))


def test_single_images_make_no_grid(files):
    at = settle(start(files, setting="sds:target=prediction"))
    at.session_state["a_mode"] = "custom grid"
    assert "Custom grids need GridPG, DiFull or DiPart" in texts(settle(at))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"model": "resnet5000", "checkpoint": ""}, "nknown model"),
        ({"methods": "Gard-CAM"}, "Did you mean Grad-CAM"),
        ({"methods": "IG:steps=many"}, "steps"),
        ({"setting": "gridgp"}, "gridpg"),
        ({"setting": "sensitivity"}, "more than one map"),
        ({"setting": "difull:grid=99"}, "grid"),
        ({"smoothing": "8"}, "even"),
        ({"limit": "none"}, "imit="),
        ({"data": "/nowhere/<b>"}, "nknown data set"),
        ({"checkpoint": "/nowhere.pth"}, "no file"),
        ({"colour": "red"}, "field of the link"),
        ({"methods": ""}, "Choose a method"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_nonsense_in_a_link_is_named_in_a_sentence(query, says, files):
    at = run(start(files, **query))
    if says not in texts(at):
        at = settle(at)
    if says not in texts(at):
        at = settle(press(at, "Start"))
    assert says in texts(at)
    assert not at.exception


def test_a_method_that_is_not_defined_is_left_out_with_the_reason(files):
    at = started(start(files, methods="IxG@Input,IxG@Nowhere", limit="4"))
    assert len(rows(at)) == 1
    assert "Left out because not defined here: 1" in [e.label for e in at.expander]


def test_a_target_is_chosen_for_all_rows_and_told_apart(files):
    at = started(start(files, methods="IxG@Input:target=contrast:k=2:by=logits,IxG@Final:target=contrast:k=2:by=logits"))
    assert (control(at, "a_explained").value, control(at, "a_methods").value) == ("contrast", ["IxG"])
    contrast = rows(at)
    assert len(contrast) == 2
    assert all("target=contrast:k=2:by=logits" in row for row in contrast)
    at = settle(start(files, methods="IxG@Input,IxG@Input:target=contrast:by=logits,IG@Input:steps=3,IG@Input:steps=4"))
    at = started(at)
    legend = {trace["name"] for trace in json.loads(nodes(at, "plotly_chart")[0].proto.spec)["data"] if trace["type"] == "box"}
    assert legend == {"IxG", "IxG:target=contrast:by=logits", "IG:steps=3", "IG:steps=4"}
    at = started(start(files, methods="IxG@Input:target=contrast:k=2:by=logits,IxG@Final:target=contrast:k=2:by=logits"))
    control(at, "a_explained").set_value("logit")
    assert not any("target" in row for row in rows(started(at)))
    at = settle(start(files, methods="IxG@Input,IxG@Input:target=probability"))
    assert control(at, "a_methods").value == ["IxG@Input", "IxG@Input:target=probability"]
    assert link(at)["methods"] == "IxG,IxG:target=probability"


def test_link_command_line_and_python_say_the_same(files):
    at = settle(start(files, smoothing="9"))
    shown = [c.value for c in at.code]
    assert any("--smoothing 9" in text and "--setting difull:confidence=0" in text for text in shown)
    assert any("AggregateView(smoothing=9)" in text for text in shown)
    assert {m.layer for m in parse_methods(link(at)["methods"])} == {"", "Final"}
