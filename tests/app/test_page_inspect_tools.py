"""What looks closer on Inspect: layers and models side by side, and the four tools below the maps, on a small network."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import re
import threading
import zlib

import pytest
import torch
from streamlit.testing.v1 import AppTest
from support.nets import Plain, made
from support.pages import control, heads, link, nodes, settle, texts, titles
from support.pages import open_page as start
from support.waiting import LIMIT

import pages.shared.jobs
import pages.shared.map_jobs
from attrlib.data.samples import open_sample
from attrlib.diagnostics.deletion_curve import delete_in_order
from attrlib.diagnostics.map_comparison import compare_maps
from attrlib.diagnostics.single_deletion import cell_outputs, cell_score
from attrlib.errors import ModelError
from attrlib.specs import ViewSpec
from pages.shared import selection

METHODS = "IxG,Gradient"


class Small:
    """Small networks behind names that the page knows, and what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int):
        self.first = first
        self.models: dict[str | None, attrlib.Classifier] = {}
        self.calls: list[str] = []
        monkeypatch.setattr(pages.shared.jobs, "load_model", self.load)
        for name in ("cell_outputs", "delete_in_order", "randomised"):
            monkeypatch.setattr(pages.shared.map_jobs, name, self.counted(name, getattr(pages.shared.map_jobs, name)))

    def counted(self, name: str, real):
        def call(*args, **kwargs):
            self.calls.append(name)
            return real(*args, **kwargs)

        return call

    def add(self, **options) -> str:
        """The checkpoint of a new one, with weights that no other test has: tests of one process share their jobs."""
        seed = self.first + len(self.models)
        checkpoint = f"random:{seed}"
        self.models[checkpoint] = attrlib.wrap_model(made(Plain, seed=seed), 32, **options)
        return checkpoint

    def load(self, name: str, checkpoint: str | None = None, **_options) -> attrlib.Classifier:
        if checkpoint not in self.models:
            raise ModelError("the weights could not be had; connect to the internet")
        return self.models[checkpoint]


@pytest.fixture
def small(monkeypatch, request) -> Small:
    return Small(monkeypatch, 10 * zlib.crc32(request.node.name.encode()) % 2**30)


def opened(small: Small, checkpoint: str = "", **query: str) -> AppTest:
    checkpoint = checkpoint or small.add()
    return settle(start(**{"model": "efficientnet_lite0", "checkpoint": checkpoint, "methods": METHODS} | query))


def said(at: AppTest) -> str:
    return "\n".join(m.value for m in at.main.markdown) + texts(at)


def number(text: str, name: str) -> float:
    """The number behind a name in bold, as the page writes it."""
    found = re.search(rf"\*\*{re.escape(name)} ([+−]?\d\.\d+)", text)
    assert found, text
    return float(found[1].replace("−", "-"))


def map_of(model: attrlib.Classifier, method: str) -> attrlib.Attribution:
    return attrlib.explain(model, open_sample("sample:cat"), method)


# Layers and models side by side


def test_one_choice_shows_every_method_at_all_three_layers(small):
    at = opened(small)
    control(at, "layer").set_value(selection.ALL_LAYERS)
    at = settle(at)
    assert titles(at) == ["Photo", *["IxG"] * 3, "Photo", *["Gradient"] * 3]
    assert [line.split(" ")[0] for _, line in heads(at)[1:4]] == ["Input", "Middle", "Final"]
    fields = link(at)
    again = settle(start(**fields))
    assert (control(again, "layer").value, control(again, "methods").value) == (selection.ALL_LAYERS, ["IxG", "Gradient"])
    assert link(again) == fields


def test_too_many_maps_are_cut_off_with_a_message(small):
    names = [info.name for info in attrlib.list_methods() if not info.needs and info.family != "intrinsic"][:14]
    at = opened(small, methods=",".join(names))
    control(at, "layer").set_value(selection.ALL_LAYERS)
    at.run()
    assert "42 maps are too many to show; the first 40 are shown" in texts(at)


def test_models_stand_in_rows_each_with_its_own_predicted_class(small):
    first, second = small.add(), small.add()
    photo = open_sample("sample:cat")
    classes = [int(small.models[own](small.models[own].preprocess(photo.image)[None]).argmax()) for own in (first, second)]
    assert classes[0] != classes[1]
    at = opened(small, first, also=f"efficientnet_lite0@{second}", tool="Compare")
    photos = [line for title, line in heads(at) if title.startswith("efficientnet_lite0@random")]
    assert len(photos) == 2
    assert [f"class {own}" in line for own, line in zip(classes, photos, strict=True)] == [True, True]
    names = [f"efficientnet_lite0@{own}" for own in (first, second)]
    assert titles(at)[:6] == [names[0], "IxG", "Gradient", names[1], "IxG", "Gradient"]
    assert link(at)["also"] == f"efficientnet_lite0@{second}"
    assert at.selectbox(key="compare_first").options == [f"{method}@Input · {name}" for name in names for method in ("IxG", "Gradient")]
    assert f"explain --model efficientnet_lite0 --checkpoint {first}" in at.main.code[1].value.replace("'", "")


def test_a_chosen_class_is_explained_for_every_model(small):
    at = opened(small, small.add(), also=f"efficientnet_lite0@{small.add()}", target="3")
    assert ["class 3" in line for title, line in heads(at) if title.startswith("efficientnet_lite0@random")] == [True, True]


def test_the_first_row_does_not_wait_for_the_model_of_the_second(small, monkeypatch, request):
    second, gate = small.add(), threading.Event()
    request.addfinalizer(gate.set)

    def slow(name, checkpoint=None, **options):
        return small.load(name, checkpoint) if checkpoint != second or gate.wait(LIMIT) else None

    checkpoint = small.add()
    opened(small, checkpoint)
    monkeypatch.setattr(pages.shared.jobs, "load_model", slow)
    at = start(model="efficientnet_lite0", checkpoint=checkpoint, methods=METHODS, also=f"efficientnet_lite0@{second}").run()
    assert titles(at) == ["Photo", "IxG", "Gradient"]
    assert [p.proto.text for p in nodes(at, "progress")] == [f"Loading efficientnet\\_lite0@random\\:{second[7:]}"]
    gate.set()
    assert len(titles(settle(at))) == 6


def test_a_model_that_cannot_be_had_costs_only_its_row(small):
    at = opened(small, also="efficientnet_lite0@random:1")
    assert "connect to the internet" in texts(at)
    assert titles(at) == ["Photo", "IxG", "Gradient"]


def test_a_typed_model_that_is_none_gets_a_message(small):
    at = opened(small)
    control(at, "also").set_value(["resnet5000"])
    at = settle(at)
    assert "Unknown model" in at.sidebar.warning[0].value
    assert titles(at) == ["Photo", "IxG", "Gradient"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"also": "resnet5000"}, "Unknown model"),
        ({"also": "timm:resnet18,timm:resnet26,timm:resnet34"}, "the first 3 are shown"),
        ({"tool": "Divination"}, "Unknown tool of the link"),
    ],
)
def test_a_link_with_nonsense_gets_a_message_and_the_page_works(small, query, says):
    at = opened(small, **query)
    assert says in texts(at)
    assert {"IxG", "Gradient"} <= set(titles(at))


# Tools


def test_no_tool_is_open_until_one_is_chosen_and_the_link_restores_it(small):
    at = opened(small)
    assert "tool" not in link(at)
    assert not small.calls
    at.segmented_control(key="tool").set_value("Patches")
    at = settle(at)
    assert link(at)["tool"] == "Patches"
    assert small.calls == ["cell_outputs"]
    assert "SDS" in said(settle(start(**link(at))))
    assert small.calls == ["cell_outputs"]


def test_without_a_map_a_tool_says_what_to_do(small):
    at = opened(small, methods="", tool="Compare")
    assert "No map is available" in texts(at)


def test_any_two_maps_are_compared(small):
    checkpoint = small.add()
    at = opened(small, checkpoint, methods="IxG,Gradient,IxG@Final", tool="Compare")
    assert at.selectbox(key="compare_first").options == ["IxG@Input", "Gradient@Input", "IxG@Final"]
    at.selectbox(key="compare_second").set_value("IxG@Final")
    at = settle(at)
    model = small.models[checkpoint]
    expected = compare_maps(map_of(model, "IxG").maps, map_of(model, "IxG@Final").maps, (32, 32), ViewSpec())
    assert number(said(at), "Rank correlation") == pytest.approx(expected.correlation, abs=0.006)
    assert titles(at)[-3:] == ["IxG", "IxG", "Difference"]
    before = [n.value for n in nodes(at, "image")][-1]
    at.segmented_control(key="compare_units").set_value("raw")
    at = settle(at)
    assert [n.value for n in nodes(at, "image")][-1] != before
    control(at, "methods").set_value(["IxG", "Gradient"])
    at = settle(at)
    assert at.selectbox(key="compare_second").value == "Gradient@Input"
    control(at, "methods").set_value(["IxG", "Gradient", "IxG@Final"])
    assert settle(at).selectbox(key="compare_second").value == "IxG@Final"


@pytest.mark.parametrize("tuned", [False, True])
def test_patches_show_this_photos_score_at_any_grid_and_baseline(small, tuned):
    checkpoint = small.add(deletion_tuned=tuned)
    model, name = small.models[checkpoint], "IDSDS" if tuned else "SDS"
    at = opened(small, checkpoint, tool="Patches")
    photo, map_ = open_sample("sample:cat"), map_of(model, "IxG")
    found = cell_score(cell_outputs(model, photo, map_.target[0]), map_)
    assert number(said(at), name) == pytest.approx(found.correlation, abs=0.006)
    assert ("out of its domain" in said(at)) != tuned
    assert at.selectbox(key="patch_grid").options == ["2 × 2 patches", "4 × 4 patches", "8 × 8 patches", "16 × 16 patches"]
    at.selectbox(key="patch_grid").set_value(8)
    at.selectbox(key="patch_baseline").set_value("blur")
    at.segmented_control(key="patch_output").set_value("probability")
    at = settle(at)
    other = cell_score(cell_outputs(model, photo, map_.target[0], 8, "blur"), map_, "probability")
    assert number(said(at), name) == pytest.approx(other.correlation, abs=0.006)
    assert at.get("plotly_chart")


def test_another_map_needs_no_further_pass_through_the_model(small):
    at = opened(small, tool="Patches")
    at.selectbox(key="patch_map").set_value("Gradient@Input")
    at.segmented_control(key="patch_output").set_value("probability")
    settle(at)
    assert small.calls == ["cell_outputs"]


def test_the_slider_moves_photo_and_probability_and_computes_nothing(small):
    checkpoint = small.add()
    at = opened(small, checkpoint, tool="Deletion")
    model = small.models[checkpoint]
    path = delete_in_order(model, open_sample("sample:cat"), map_of(model, "IxG"))
    pictures = set()
    for step in (0, 9, 32):
        at.slider(key="deletion_step").set_value(step)
        at = settle(at)
        assert f"= {float(path.probabilities[step]):.2f}**" in said(at)
        pictures.add(tuple(str(n.value) for n in nodes(at, "image")[-3:]))
    assert len({p[0] for p in pictures}) == len({p[-1] for p in pictures}) == 3
    assert small.calls == ["delete_in_order"]


def test_cells_can_go_least_relevant_first_and_a_shorter_way_ends_where_it_ends(small):
    checkpoint = small.add()
    at = opened(small, checkpoint, tool="Deletion")
    at.slider(key="deletion_step").set_value(32)
    at = settle(at)
    at.selectbox(key="deletion_grid").set_value(4)
    at.segmented_control(key="deletion_order").set_value("ascending")
    at = settle(at)
    model = small.models[checkpoint]
    path = delete_in_order(model, open_sample("sample:cat"), map_of(model, "IxG"), "ascending", 4)
    assert (at.slider(key="deletion_step").value, path.steps) == (16, 16)
    assert f"Mean along the curve: {path.area:.2f}, higher is better" in said(at)


def test_a_tool_that_fails_says_why_and_can_be_tried_again(small, monkeypatch):
    def fail(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(pages.shared.map_jobs, "delete_in_order", fail)
        at = opened(small, tool="Deletion")
        assert "Not enough memory" in texts(at)
        assert titles(at) == ["Photo", "IxG", "Gradient"]
    next(b for b in at.button if b.label == "Try again").click()
    assert "Mean along the curve" in said(settle(at))


def test_a_map_stands_beside_those_of_a_twin_and_of_noise(small):
    at = opened(small, tool="Sanity")
    assert titles(at)[-3:] == ["This model", "Shuffled weights", "Random"]
    correlations = [re.search(r"rank correlation ([+−]\d\.\d\d)", line)[1] for _, line in heads(at)[-2:]]
    assert abs(float(correlations[1].replace("−", "-"))) < 0.2
    before = [n.value for n in nodes(at, "image")][-3:]
    at.segmented_control(key="sanity_share").set_value(0.25)
    at = settle(at)
    after = [n.value for n in nodes(at, "image")][-3:]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert small.calls == ["randomised", "randomised"]


LABELS = {"class_names": ("ant", "bee", "cat", "dog", "elk"), "outputs": "sigmoid"}


def test_labels_have_probabilities_of_their_own_and_those_of_half_or_more_are_marked(small):
    checkpoint = small.add(**LABELS)
    model = small.models[checkpoint]
    image = model.preprocess(open_sample("cat").image)[None]
    with torch.no_grad():
        # Some labels are predicted, and others are not.
        model.module.fc.bias.sub_(model(image)[0].sort().values[1:3].mean())
    at = opened(small, checkpoint)
    sigma = model(image)[0].sigmoid()
    bars = next(n.proto.body for n in nodes(at, "html") if "Most probable" in n.proto.body)
    options = at.selectbox(key="target").options
    for name, value in zip(LABELS["class_names"], sigma.tolist(), strict=True):
        text = f"{value:.2f}{' ✓' if value >= 0.5 else ''}"
        assert f">{name}</span><span>{text}</span>" in bars
        assert f"{name} {text}" in options
    assert sum(value >= 0.5 for value in sigma.tolist()) == 3
    assert options[0] == f"predicted: {LABELS['class_names'][int(sigma.argmax())]}"


def test_a_label_that_no_one_predicts_is_called_the_most_probable(small):
    checkpoint = small.add(**LABELS)
    with torch.no_grad():
        small.models[checkpoint].module.fc.bias.sub_(50)
    options = opened(small, checkpoint).selectbox(key="target").options
    assert options[0].startswith("most probable: ")
    assert "✓" not in "".join(options)


class Number(Plain):
    """Predicts one number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :1]


def test_a_number_is_shown_with_its_value_and_tools_of_probabilities_say_why_not(small):
    checkpoint = "random:number"
    small.models[checkpoint] = model = attrlib.wrap_model(made(Number, seed=small.first), 32, outputs="scalar")
    at = opened(small, checkpoint, tool="Deletion")
    value = float(model(model.preprocess(open_sample("cat").image)[None]))
    assert at.selectbox(key="target").options[0] == f"predicted: {value:.3g}"
    bars = next(n.proto.body for n in nodes(at, "html") if "Numbers" in n.proto.body)
    assert f"<span>{value:.3g}</span>" in bars
    assert "Most probable" not in "".join(n.proto.body for n in nodes(at, "html"))
    assert "a number does not have" in texts(at)
    assert "delete_in_order" not in small.calls
    at.segmented_control(key="tool").set_value("Patches")
    at = settle(at)
    assert at.segmented_control(key="patch_output").options == ["logit"]
    assert not at.exception


def test_of_the_features_of_a_backbone_none_is_predicted_and_a_link_explains_their_similarity_to_another_picture():
    at = settle(start(model="timm:resnet10t?num_classes=0", checkpoint="random:1", methods="IxG:target=similarity:to=sample:coffee"))
    chooser = at.selectbox(key="target")
    model = attrlib.load_model("timm:resnet10t?num_classes=0", "cpu", checkpoint="random:1")
    value = float(model(model.preprocess(open_sample("cat").image)[None])[0, 0])
    assert chooser.label == "Feature"
    assert chooser.options[0] == f"first: {value:.3g}"
    assert chooser.help == "The feature that is explained."
    assert titles(at) == ["Photo", "IxG"]
    assert "similarity to sample:coffee" in str(heads(at))
    assert "Most probable" not in "".join(n.proto.body for n in nodes(at, "html"))
    assert not at.exception


def test_the_notes_of_a_model_are_shown_and_many_are_folded(small):
    checkpoint = small.add()
    model = small.models[checkpoint]
    model.notes = ("assumed the first", "left out the second")
    at = opened(small, checkpoint)
    assert "Assumed the first" in texts(at)
    assert not [e for e in at.expander if "notes" in e.label]
    model.notes = ("assumed the first", "left out the second", "and a third")
    at = opened(small, checkpoint)
    assert [e.label for e in at.expander if "notes" in e.label] == ["3 notes on wrapped\\:Plain"]
