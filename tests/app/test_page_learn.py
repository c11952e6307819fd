"""The page Learn without a browser: every lesson, every control, links, the presenter's screen, and bad input, on small networks."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import torch
from streamlit.testing.v1 import AppTest
from support.nets import made
from support.pages import link, nodes, open_page, until, waits
from support.pages import words as said
from torch import nn

import pages.aggregate.choice
import pages.learn.context
import pages.learn.lessons
import pages.shared.jobs
from attrlib.data.birds.classes import CLASS_NAMES
from attrlib.data.images import Photo
from attrlib.engine.jobs import queue
from attrlib.errors import ModelError, ProtocolError
from attrlib.registry import Param, params_of
from attrlib.specs import AggregateSpec, ExplainSpec, ModelSpec, digest
from attrlib.statistics import spearman
from pages.inspect.choice import DEFAULT, TOOLS
from pages.learn.context import TUNED, pairs
from pages.learn.controls import LessonOptions, key_of
from pages.learn.lesson import LESSONS
from pages.scores import choice

MODEL = pairs()[0]
SMALL = {"birds": "4", "grids": "1"}
FEWEST = {"leakage": {"birds": "25"}, "aggatt": {"grids": "10"}}
CONTROLS = [(name, p) for name, cls in LESSONS.items() for p in params_of(cls)]


class Net(nn.Module):
    """A few convolutions and a pooled head for as many classes as there are birds."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, len(CLASS_NAMES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.late(self.early(x))).flatten(1))


NETS = {
    f"{MODEL}{tuned}": attrlib.wrap_model(
        made(Net, seed=seed), 32, class_names=CLASS_NAMES, crop=1.0, deletion_tuned=bool(tuned), layers={"Middle": "early", "Final": "late"}
    )
    for seed, tuned in enumerate(("", TUNED))
}


def _forget() -> None:
    """Others that run in this process load the shipped models under the same names."""
    for name in NETS:
        job = queue("models").find(digest("model", ModelSpec(name), None, False))
        if job is not None:
            job.forget()


@pytest.fixture(autouse=True)
def small(monkeypatch) -> Iterator[None]:
    _forget()
    monkeypatch.setattr(pages.shared.jobs, "load_model", lambda name, **_options: NETS[name])
    yield
    _forget()


def start(lesson: str = "", **query: str) -> AppTest:
    least = {p.name: SMALL[p.name] for p in params_of(LESSONS[lesson]) if p.name in SMALL} if lesson in LESSONS else {}
    asked = {"lesson": lesson} if lesson else {}
    return open_page("learn", **(asked | {"model": MODEL} | least | FEWEST.get(lesson, {}) | query))


def settle(at: AppTest) -> AppTest:
    """Run the page until the lesson stands there."""
    return until(at, lambda at: not waits(at) and not at.session_state.get("learn_waits"))


def seen(at: AppTest) -> str:
    """The sentence on what the pictures show."""
    return next(str(m.value) for m in at.main.markdown if "What you see" in str(m.value))


def drawn(at: AppTest) -> str:
    """All that is shown of a lesson: pictures by their addresses, titles, and what to see."""
    heads = [n.proto.body for n in nodes(at, "html")]
    charts = [str(n.proto) for n in nodes(at, "plotly_chart")]
    return "\n".join([*(str(n.value) for n in nodes(at, "image")), *(str(n.proto) for n in nodes(at, "imgs")), *heads, *charts, seen(at)])


def style(at: AppTest) -> str:
    """The page's own style, which Streamlit keeps beside the main part."""
    (event,) = [block for key, block in at._tree.children.items() if key not in (0, 1) and block.children]
    return "".join(child.proto.body for child in event.children.values() if child.type == "html" and "learn_screen" in child.proto.body)


def other(p: Param, value: object) -> object:
    """A further value of a control that asks for little."""
    if p.choices:
        return next(choice for choice in p.choices if choice != value and "RISE" not in choice)
    return int(value) + 1 if int(value) + 1 <= (p.high or 0) else int(value) - 1  # type: ignore[call-overload]


# Lessons


def test_there_are_thirteen_lessons_and_the_first_one_comes_first():
    assert len(LESSONS) == 13
    at = settle(start())
    assert f"1. {next(iter(LESSONS.values())).title}" in said(at)
    assert link(at)["lesson"] == next(iter(LESSONS))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_shows_its_claim_its_formula_pictures_and_what_to_see(name):
    at = settle(start(name))
    lesson = LESSONS[name]
    assert f"{list(LESSONS).index(name) + 1}. {lesson.title}" in said(at)
    assert lesson.claim in said(at)
    assert lesson.paper.url in said(at)
    assert [n.value.strip("$\n") for n in nodes(at, "latex")] == [lesson.formula]
    assert len(seen(at)) > 60
    assert nodes(at, "image") or nodes(at, "imgs")
    assert not at.error
    assert not at.warning


@pytest.mark.parametrize(("name", "p"), CONTROLS, ids=[f"{name}-{p.name}" for name, p in CONTROLS])
def test_a_control_changes_what_is_seen_and_the_link_restores_it(name, p):
    at = settle(start(name))
    before, key = drawn(at), key_of(name, p.name)
    value = other(p, at.session_state[key])
    at.session_state[key] = value
    at = settle(at)
    assert drawn(at) != before
    assert link(at)[p.name] == p.format(value)
    again = settle(start(**link(at)))
    assert link(again) == link(at)
    assert drawn(again) == drawn(at)


@pytest.mark.parametrize("name", LESSONS)
def test_another_bird_is_another_lesson(name):
    at = settle(start(name, bird="3"))
    before = drawn(at)
    at.button(key="learn_another").click()
    at = settle(at)
    assert link(at)["bird"] == "4"
    assert drawn(at) != before


@pytest.mark.parametrize("name", LESSONS)
def test_the_page_that_does_it_for_real_understands_the_link(name):
    at = settle(start(name))
    (button,) = nodes(at, "link_button")
    address = urlsplit(button.proto.url)
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    if address.path.endswith("scores"):
        wanted, problems = choice.read_fields(parse_qs(address.query, keep_blank_values=True), choice.PHOTOS)
        assert wanted.run.data == "birds"
        assert len(wanted.run.methods or ()) > 1
    elif address.path.endswith("aggregate"):
        spec, problems = AggregateSpec.read_link(query, pages.aggregate.choice.PHOTOS)
        assert spec.run.model.architecture == MODEL
    else:
        assert query.get("tool", "Compare") in TOOLS
        spec, problems = ExplainSpec.read_link({k: v for k, v in query.items() if k != "tool"}, DEFAULT)
        assert len(spec.methods) > 1
    assert problems == []


# Numbers


def bird(index: int) -> tuple[attrlib.data.datasets.Item, Photo]:
    item = attrlib.load_dataset("birds")[index]
    return item, Photo(item.image, item.name)


@pytest.mark.parametrize("target", ["probability", "contrast", "versus"])
def test_what_a_lesson_says_of_targets_is_computed_by_hand(target):
    at = settle(start("targets", bird="7", target=target))
    item, photo = bird(7)
    own, y = NETS[MODEL], item.label
    image = own.preprocess(photo.image)[None].requires_grad_()
    z = own(image)[0]
    p, rows = z.softmax(0), own.module.fc.weight.detach()
    others = {"probability": [], "versus": [next(k for k in z.argsort(descending=True).tolist() if k != y)]}
    others["contrast"] = [k for k in torch.cosine_similarity(rows[y][None], rows).argsort(descending=True).tolist() if k != y][:3]
    text = f"versus:other={others['versus'][0]}" if target == "versus" else target
    maps = [attrlib.explain(own, photo.image, "IxG", y, "Middle", method_target=t).resized().flatten() for t in ("logit", text)]
    assert seen(at).endswith(f"Rank correlation of the two maps: {spearman(*maps):+.2f}.".replace("-", "−"))
    for name in others[target]:
        assert CLASS_NAMES[name] in seen(at)
    if target == "probability":
        lengths = [torch.autograd.grad(v[y], image, retain_graph=True)[0].norm() for v in (p, z)]
        assert f"p = {float(p[y].detach()):.3f}, the gradient of the probability is {100 * lengths[0] / lengths[1]:.0f}\xa0%" in seen(at)


def test_the_score_of_idsds_is_that_of_drops_and_sums_by_hand():
    at = settle(start("idsds", bird="7", method="IxG", cell="3"))
    item, photo = bird(7)
    own = NETS[f"{MODEL}{TUNED}"]
    image = own.preprocess(photo.image)[None]
    map_ = attrlib.explain(own, image, "IxG", target=item.label).maps[0, 0].double()
    drops, sums = [], []
    with torch.no_grad():
        for row in range(4):
            for column in range(4):
                place = (..., slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                deleted = image.clone()
                deleted[place] = 0
                drops.append(float(own(image)[0, item.label] - own(deleted)[0, item.label]))
                sums.append(float(map_[place].sum()))
    value = float(spearman(torch.tensor([drops]), torch.tensor([sums])))
    assert f"IxG scores {value:+.2f}".replace("-", "−") in seen(at)
    assert f"drop {drops[2]:+.2f}".replace("-", "−") in drawn(at)


def test_the_probabilities_of_deletion_are_those_of_both_models():
    at = settle(start("deletion", bird="11", step="0"))
    item, photo = bird(11)
    with torch.no_grad():
        p = [float(own(own.preprocess(photo.image)[None]).softmax(1)[0, item.label]) for own in NETS.values()]
    assert f"p: {p[0]:.2f} plain, {p[1]:.2f} tuned" in drawn(at)


def test_nothing_is_impossible_for_the_gradient_in_difull_and_in_gridpg_nothing_is_called_so():
    at = settle(start("grids", method="Gradient", layer="Input"))
    shares = [n.proto.body for n in nodes(at, "html") if "in the cell" in n.proto.body]
    assert "100\xa0% in the cell, impossible: 0\xa0%" in shares[1]
    assert "outside" in shares[0]
    assert "outside" in shares[2]
    at = settle(start("grids", method="Gradient", layer="Final"))
    assert ["impossible" in n.proto.body for n in nodes(at, "html") if "in the cell" in n.proto.body] == [False, True, True]


def test_later_steps_of_idsds_are_hidden():
    steps = [settle(start("idsds", step=str(step))) for step in (1, 4)]
    assert [len(nodes(at, "plotly_chart")) for at in steps] == [0, 1]
    assert "rank correlation" not in drawn(steps[0])


# The way through


def test_one_moves_back_and_on_and_to_any_lesson():
    at = settle(start())
    names = list(LESSONS)
    assert at.button(key="learn_back").disabled
    at.button(key="learn_next").click()
    at = settle(at)
    assert link(at)["lesson"] == names[1]
    at.button(key="learn_back").click()
    at = settle(at)
    assert link(at)["lesson"] == names[0]
    at.button(key=f"learn_to_{names[-1]}").click()
    at.session_state[key_of(names[-1], "birds")] = 2
    at = settle(at)
    assert link(at)["lesson"] == names[-1]
    assert at.button(key="learn_next").disabled


def test_a_click_moves_from_where_one_is_by_then():
    at, names = settle(start()), list(LESSONS)
    at.session_state.learn_lesson = names[3]
    at.button(key="learn_next").click()
    at = settle(at)
    assert link(at)["lesson"] == names[4]


def test_a_control_keeps_its_place_while_another_lesson_is_shown():
    at = settle(start("sanity", method="IxG"))
    at.button(key="learn_back").click()
    at = settle(at)
    at.button(key="learn_next").click()
    assert link(settle(at))["method"] == "IxG"


def test_before_an_audience_there_is_no_sidebar_and_large_type():
    at = settle(start("sanity"))
    assert style(at)
    assert "stSidebar" not in style(at)
    assert "Esc" in at.button(key="learn_presenter").help
    at.button(key="learn_presenter").click()
    at = settle(at)
    assert re.search(r'stSidebar"\][^}]*display: none', style(at))
    assert re.search(r"html {font-size: \d\dpx}", style(at))
    assert link(at)["present"] == "true"
    again = settle(start("sanity", present="true"))
    assert again.button(key="learn_presenter").label == "Exit"
    assert not again.button(key="learn_presenter").help


# Bad input, and what does not come


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"lesson": "astrology"}, "Unknown lesson"),
        ({"lesson": "sanity", "method": "Divination"}, "Unknown method"),
        ({"lesson": "idsds", "cell": "99"}, "out of range"),
        ({"lesson": "idsds", "cell": "x" * 5000}, "not valid"),
        ({"lesson": "sanity", "bird": "-1"}, "out of range"),
        ({"lesson": "sanity", "model": "<script>alert(1)</script>"}, "Unknown model"),
        ({"lesson": "sanity", "present": "maybe"}, "expected true or false"),
        ({"lesson": "sanity", "cell": "3"}, "Unknown field of the link"),
    ],
)
def test_a_link_with_nonsense_gets_a_message_and_the_lesson_is_shown(query, says):
    at = settle(start(**query))
    assert says in said(at)
    assert seen(at)
    next(b for b in at.button if b.label == "Dismiss").click()
    assert says not in said(settle(at))


def test_a_model_that_cannot_be_had_says_why_and_can_be_tried_again(monkeypatch):
    def fail(name, **_options):
        raise ModelError("the weights could not be had; connect to the internet")

    with monkeypatch.context() as broken:
        broken.setattr(pages.shared.jobs, "load_model", fail)
        at = settle(start("sanity"))
        assert "connect to the internet" in said(at)
    next(b for b in at.button if b.label == "Try again").click()
    assert seen(settle(at))


def test_a_setting_that_is_not_defined_costs_only_its_pictures(monkeypatch):
    real = pages.learn.context.map_grid

    def refuse(model, photos, protocol, *args):
        if protocol.name == "dipart":
            raise ProtocolError("DiPart is not defined for it")
        return real(model, photos, protocol, *args)

    monkeypatch.setattr(pages.learn.context, "map_grid", refuse)
    at = settle(start("grids", bird="500"))
    assert "DiPart is not defined for it" in said(at)
    assert "DiFull" in seen(at)
    assert "DiPart" not in seen(at).split("of its")[0]
    at = settle(start("layers", bird="500", setting="DiPart"))
    assert said(at).count("DiPart is not defined for it") == 6


def test_without_models_the_page_says_how_they_are_made(monkeypatch):
    monkeypatch.setattr(pages.learn.context, "shipped", dict)
    at = start().run()
    assert not at.exception
    assert "attrlib.training.family" in said(at)


def test_every_setting_that_all_lessons_share_is_a_choice_that_there_is():
    shared = {p.name: p for p in params_of(LessonOptions)}
    assert shared["model"].choices == pairs()
    assert shared["model"].default in pairs()
