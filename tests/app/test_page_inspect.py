"""The page Inspect without a browser: what it shows for every choice and every kind of bad input."""

import io
import pickle
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from support.pages import buttons, control, heads, link, nodes, press, settle, texts, titles, type_into, until
from support.pages import open_page as start
from support.waiting import PAUSE

import attrlib
from attrlib.methods import SharedMaps


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The maps that were computed for the page."""
    made: list[str] = []
    real = SharedMaps.attribute

    def counted(self, spec, on_progress):
        made.append(str(spec))
        return real(self, spec, on_progress)

    monkeypatch.setattr(SharedMaps, "attribute", counted)
    return made


def test_first_load_shows_a_photo_its_classes_and_four_maps_without_a_click():
    at = settle(start())
    assert titles(at) == ["Photo", "Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop"]
    assert len(nodes(at, "image")) == 5
    bars = next(n.proto.body for n in nodes(at, "html") if "Most probable" in n.proto.body)
    assert "cat" in bars
    assert bars.count("<span>0.") == 5


def test_colour_opacity_smoothing_and_sign_compute_no_attribution_again(calls):
    at = settle(start(image="sample:coins"))
    before = [n.value for n in nodes(at, "image")]
    made = list(calls)
    at.select_slider(key="smoothing").set_value(33)
    at.slider(key="opacity").set_value(0.4)
    at.selectbox(key="diverging").set_value("RdBu")
    at = settle(at)
    after = [n.value for n in nodes(at, "image")]
    assert calls == made
    assert before[0] == after[0]
    assert all(a != b for a, b in zip(before[1:], after[1:], strict=True))


def test_a_second_session_computes_nothing_again(calls):
    settle(start(image="sample:rocket"))
    made = list(calls)
    settle(start(image="sample:rocket"))
    assert made
    assert calls == made


def test_other_methods_a_layer_and_parameters_can_be_chosen():
    at = settle(start())
    control(at, "methods").set_value(["IG", "Sobel"])
    control(at, "layer").set_value("Middle")
    at = settle(at)
    assert titles(at) == ["Photo", "IG", "Sobel"]
    assert all("Middle 28×28" in line for _, line in heads(at)[1:])
    at.number_input(key="form-IG-steps").set_value(4)
    next(b for b in at.button if b.label == "Apply").click()
    at = settle(at)
    assert "IG@Middle:steps=4" in link(at)["methods"]
    assert "convergence error" in texts(at)


def test_a_method_can_be_typed_with_layer_and_parameters():
    at = settle(start(methods="IG@Final:steps=3,IG@Middle:steps=2"))
    assert [line.split(" ")[0] for _, line in heads(at)[1:]] == ["Final", "Middle"]


def test_another_target_gives_other_maps():
    at = settle(start())
    before = [n.value for n in nodes(at, "image")]
    at.selectbox(key="target").set_value(285)
    at = settle(at)
    assert link(at)["target"] == "285"
    assert [n.value for n in nodes(at, "image")][1:] != before[1:]


def test_a_map_that_says_nothing_says_why():
    at = settle(start(methods="Gradient@Final"))
    assert "Constant" in texts(at)


def test_a_method_that_the_model_does_not_allow_is_refused_with_the_reason(monkeypatch):
    real = attrlib.load_model
    monkeypatch.setattr("pages.shared.jobs.load_model", lambda name, **kw: real(name, pretrained=False))
    at = settle(start(model="timm:vit_tiny_patch16_224", methods="Guided Backprop,Gradient"))
    assert "Guided Backprop is defined for ReLU networks" in texts(at)
    assert titles(at) == ["Photo", "Guided Backprop", "Gradient"]


def upload(at: AppTest, name: str, data: bytes) -> AppTest:
    at.file_uploader[0].upload(name, data, "image/png")
    at.run()
    return at


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_photo_can_be_uploaded():
    at = settle(upload(settle(start()), "mine.png", encoded(Image.effect_noise((300, 200), 80))))
    assert at.session_state["image"] == "upload"
    assert link(at)["image"] == "upload:mine.png"
    assert titles(at)[1:] == ["Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("text.png", b"this is no picture", "not a picture"),
        ("cut.png", encoded(Image.effect_noise((200, 200), 80))[:5000], "cut off"),
        ("dot.png", encoded(Image.new("RGB", (1, 1))), "1 x 1"),
        ("bomb.png", bomb(30_000), "million px"),
    ],
    ids=["text", "cut off", "one pixel", "bomb"],
)
def test_a_bad_upload_gets_one_message_and_the_page_goes_on(name, data, says):
    at = upload(settle(start()), name, data)
    assert says in texts(at)
    assert not at.exception
    control(at, "image").set_value("sample:coffee")
    assert titles(settle(at)) == ["Photo", "Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop"]


def test_an_upload_with_transparency_says_what_was_done():
    at = settle(upload(settle(start()), "glass.png", encoded(Image.new("RGBA", (64, 64), (200, 30, 30, 90)))))
    assert "shown on white" in texts(at)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"model": "resnet5000"}, "Unknown model"),
        ({"methods": "Gard-CAM"}, "Did you mean Grad-CAM"),
        ({"methods": "IG:steps=many"}, "steps"),
        ({"methods": "IG@Nowhere"}, "no layer"),
        ({"target": "-4"}, "target"),
        ({"target": "70000"}, "does not exist"),
        ({"image": "/etc/passwd"}, "neither a sample nor a bird"),
        ({"image": "upload:holiday.jpg"}, "upload the photo again"),
        ({"sign": "sideways"}, "sign"),
        ({"smoothing": "4"}, "odd"),
        ({"opacity": "7"}, "opacity=7 is out of range"),
        ({"methods": ",".join(f"Sobel,Random,IG@Final:steps={i}" for i in range(1, 43))}, "the first 40 are shown"),
        ({"smoothing": "1", "target": "99999"}, "does not exist"),
        ({"nonsense": "1"}, "Unknown field"),
        ({"seed": "x"}, "seed='x' is not valid"),
    ],
)
def test_a_link_with_nonsense_gets_a_message_and_the_page_works(query, says):
    at = settle(start(**query))
    assert says in texts(at)
    assert "Photo" in titles(at)


def test_a_model_that_cannot_be_loaded_gets_a_message_and_another_can_be_chosen(monkeypatch):
    def fail(name, **kw):
        if name != "efficientnet_lite0":
            raise attrlib.ModelError("the weights could not be had; connect to the internet")
        return attrlib.load_model(name)

    monkeypatch.setattr("pages.shared.jobs.load_model", fail)
    at = start(model="timm:resnet26").run()
    assert "connect to the internet" in texts(at)
    assert not at.exception
    type_into(at, "model", "efficientnet_lite0")
    assert len(titles(settle(at))) == 5


def test_a_missing_checkpoint_gets_a_message():
    at = start().run()
    type_into(at, "model", "efficientnet_lite0@/nowhere/weights.pth")
    at.run()
    assert "There is no file" in texts(at)
    assert not at.exception


def test_another_input_size_is_in_the_tiles_and_the_link_and_a_bad_one_gets_a_message():
    at = settle(start(model="birds_resnet10", methods="IxG,Grad-CAM"))
    type_into(at, "model", "birds_resnet10@64x96")
    settle(at)
    assert link(at)["input_size"] == "64x96"
    assert any("64×96" in line for _, line in heads(at))
    assert "--input-size 64x96" in at.main.code[1].value
    assert "input_size=(64, 96)" in at.main.code[2].value
    assert heads(settle(start(**link(at)))) == heads(at)
    type_into(at, "model", "birds_resnet10@input_size=64x")
    at.run()
    assert "as in 192x256" in texts(at)
    type_into(at, "model", "birds_resnet10@9999")
    at.run()
    assert "from 1 to 2048" in texts(at)
    assert not at.exception


SPEC = (
    "attrlib:small_resnet10_w16@random:3@48x64@outputs=sigmoid@mean=0.1/0.2/0.3@std=0.4/0.5/0.6@interpolation=bicubic@crop=1.0@fit=squash"
)


def test_nothing_of_a_model_is_lost_between_the_chooser_the_link_and_the_command_line():
    at = settle(start(model=SPEC, methods="IxG"))
    assert control(at, "model").value == SPEC
    fields = {name: link(at)[name] for name in ("outputs", "mean", "std", "interpolation", "crop", "fit", "input_size", "checkpoint")}
    assert fields == {
        "outputs": "sigmoid", "mean": "0.1/0.2/0.3", "std": "0.4/0.5/0.6", "interpolation": "bicubic", "crop": "1.0", "fit": "squash",
        "input_size": "48x64", "checkpoint": "random:3",
    }  # fmt: skip
    again = settle(start(**link(at)))
    assert control(again, "model").value == SPEC
    assert [n.value for n in nodes(again, "image")] == [n.value for n in nodes(at, "image")]
    assert "outputs='sigmoid'" in at.main.code[2].value
    assert "--mean 0.1/0.2/0.3" in at.main.code[1].value


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_that_runs_code_is_not_loaded_and_the_page_goes_on(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Runs(tmp_path / "marker")}))
    at = start().run()
    type_into(at, "model", f"efficientnet_lite0@{tmp_path / 'evil.pth'}")
    at.run()
    assert "could run code" in texts(at)
    assert not (tmp_path / "marker").exists()
    type_into(at, "model", "efficientnet_lite0")
    assert len(titles(settle(at))) == 5


def test_a_checkpoint_of_another_architecture_names_the_keys(tmp_path):
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "other.pth")
    at = start().run()
    type_into(at, "model", f"efficientnet_lite0@{tmp_path / 'other.pth'}")
    at.run()
    assert "stem.weight" in texts(at)
    assert "conv\\_stem.weight" in texts(at)


def test_links_and_file_names_are_shown_as_they_are_and_not_as_markdown():
    at = settle(start(**{"![x](https://example.org/t.png)": "1"}))
    assert "![x](https" not in texts(at)
    assert "https\\://example.org" in texts(at)


def test_classes_of_one_name_can_be_told_apart():
    at = settle(start(target="517"))
    labels = at.selectbox(key="target").options
    assert len(set(labels)) == len(labels)
    assert any(label.startswith("crane (134)") for label in labels)
    assert link(at)["target"] == "517"


def test_no_method_chosen_says_what_to_do():
    at = start(methods="IxG").run()
    control(at, "methods").set_value([])
    at.run()
    assert "Choose methods above" in texts(at)
    assert not at.exception


@pytest.fixture
def gate(monkeypatch) -> Iterator[threading.Event]:
    """Attributions wait before they begin until it is set, or until they are cancelled."""
    opened = threading.Event()
    real = SharedMaps.attribute

    def held(self, spec, on_progress):
        while not opened.wait(PAUSE):
            on_progress(0, 1)
        return real(self, spec, on_progress)

    monkeypatch.setattr(SharedMaps, "attribute", held)
    yield opened
    opened.set()


def test_long_work_can_be_cancelled_and_started_again(gate):
    at = until(start(methods="RISE:samples=9:cells=3", seed="77"), lambda at: "Cancel" in buttons(at))
    at = settle(press(at, "Cancel"))
    assert "Cancelled" in texts(at)
    assert [b for b in buttons(at) if b == "Try again"] == ["Try again"]
    press(at, "Try again")
    assert "Cancelled" not in texts(at)
    assert "Cancel" in buttons(at)
    gate.set()
    assert titles(settle(at)) == ["Photo", "RISE"]
    assert "Try again" not in buttons(at)


def test_the_link_restores_methods_layer_parameters_and_view():
    at = settle(
        start(
            methods="IG@Middle:steps=5:baseline=blur,IxG@Middle",
            sign="absolute",
            smoothing="9",
            scale="shared",
            target="207",
            seed="3",
        )
    )
    fields = link(at)
    again = settle(start(**fields))
    assert link(again) == fields
    assert fields["methods"] == "IG@Middle:steps=5:baseline=blur:channels=sum,IxG@Middle:channels=sum"
    assert tuple(fields[k] for k in ("sign", "smoothing", "scale", "target", "seed")) == ("absolute", "9", "shared", "207", "3")
    assert [n.value for n in nodes(again, "image")] == [n.value for n in nodes(at, "image")]
