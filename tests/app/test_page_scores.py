"""The page Scores: every state without a browser, and the way from a link to the example images of a score in one."""

import csv
import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
from playwright.sync_api import Browser, expect
from streamlit.testing.v1 import AppTest
from support.browser import chromium, serve, settle, visit
from support.pages import Checkpoints, buttons, control, heads, link, nodes, open_page, press, run, texts, titles, type_into, until, words
from support.runs import classifier, pictures
from support.waiting import LIMIT, PAUSE
from torch import nn

import attrlib.analysis.leaderboard
import pages.shared.jobs
import pages.shared.run_jobs
from attrlib.engine.jobs import Priority, Queue
from attrlib.engine.plan import make_plan
from attrlib.errors import Cancelled
from attrlib.figures import charts
from attrlib.models import parse_model
from attrlib.specs import RunSpec, options_of, parse_methods, parse_protocols
from attrlib.statistics import paired_difference, summary
from attrlib.store import open_store
from attrlib.targets import TARGETS
from pages.scores import choice, plots, takeaway
from pages.shared import run_jobs, selection, short

pytestmark = pytest.mark.usefixtures("own_cache")
TINY, GELU, TWIN = "efficientnet_lite0@tiny", "efficientnet_lite0@gelu", "efficientnet_lite0@twin"
MODELS = {"tiny": classifier(), "gelu": classifier(activation=nn.GELU), "twin": classifier(seed=1)}
METHODS = "IxG,Random,Grad-CAM"


@pytest.fixture(autouse=True)
def _small_models(checkpoints: Checkpoints) -> None:
    checkpoints(MODELS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty pictures of five classes, in folders named by the model's index."""
    return pictures(tmp_path / "pictures")


def start(**query: object) -> AppTest:
    """The page, opened by a link with these fields."""
    return open_page("scores", **query)


def small(data: Path, **query: object) -> AppTest:
    return start(**{"model": TINY, "data": data, "protocols": "sds:grid=2", "methods": METHODS, "limit": 6} | query)


def planned(at: AppTest) -> AppTest:
    return until(at, lambda at: "of memory" in words(at))


def finished(at: AppTest) -> AppTest:
    """Results and their example images are there."""
    return until(at, lambda at: "Run again" in buttons(at) and bool(nodes(at, "image")) and "…" not in [line for _, line in heads(at)])


def done(at: AppTest) -> AppTest:
    return finished(press(planned(at), "Start"))


def board(at: AppTest) -> dict[str, list]:
    return at.dataframe[0].value.to_dict("list")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Runs stop after a few events until it is set, or until they are cancelled."""
    opened = threading.Event()
    real = pages.shared.run_jobs.run

    def run(plan, on_progress, executor):
        def watched(event):
            on_progress(event)
            while event.done >= 6 and not opened.wait(PAUSE):
                on_progress(event)

        return real(plan, watched, executor)

    monkeypatch.setattr(pages.shared.run_jobs, "run", run)
    yield opened
    opened.set()


def api(data: Path, methods: str = METHODS, **options: Any) -> attrlib.RunResult:
    """What the library says without the page."""
    return attrlib.compare(["sds:grid=2"], MODELS["tiny"], methods.split(","), data, limit=6, **options)


# Before a run


def test_the_first_visit_says_what_it_costs_and_what_to_do_next(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = replace(choice.PHOTOS, models=(parse_model(TINY),))
    monkeypatch.setattr(choice, "default", lambda: wanted)
    at = planned(start())
    assert "Which method can I trust" in words(at)
    assert "40 results, 0 % cached" in words(at)
    assert "About" in words(at)
    assert "to compute the maps and their scores" in words(at)
    assert "Start" in buttons(at)


def test_a_model_is_typed_with_everything_that_belongs_to_it_and_the_link_keeps_it(data: Path) -> None:
    typed = "timm:test_resnet@random:1@64x96@outputs=sigmoid@mean=0.5/0.5/0.5"
    at = small(data).run()
    type_into(at, "s_models", [TINY, typed])
    run(at)
    assert at.query_params["model"] == [TINY, typed]
    again = start(**{name: at.query_params[name] for name in at.query_params}).run()
    assert control(again, "s_models").value == [TINY, typed]
    type_into(at, "s_models", [TINY, "timm:test_resnet@input_size=wide"])
    run(at)
    assert "'wide' is not valid" in words(at)


@pytest.mark.parametrize(("field", "value"), [("outputs", "sigmoid"), ("mean", "0.5/0.5/0.5"), ("fit", "squash")])
def test_a_link_of_one_run_keeps_each_field_of_its_model(field: str, value: str, data: Path) -> None:
    at = small(data, model="timm:test_resnet", **{field: value}).run()
    assert control(at, "s_models").value == [f"timm:test_resnet@{field}={value}"]


def test_a_page_opened_by_a_link_before_all_others_is_run_by_the_router(data: Path) -> None:
    at = small(data).run()
    assert any("Device" in caption.value for caption in at.sidebar.caption)


@pytest.mark.parametrize(("field", "says"), [("s_protocols", "a protocol"), ("s_methods", "a method"), ("s_models", "a model")])
def test_nothing_chosen_says_what_to_choose(field: str, says: str, data: Path) -> None:
    at = small(data).run()
    control(at, field).set_value([]).run()
    assert not at.exception
    assert f"Choose {says} above" in texts(at)
    assert "Start" not in buttons(at)


def test_what_is_not_defined_on_the_model_is_shown_with_the_reason_and_the_rest_runs(data: Path) -> None:
    at = planned(small(data, model=GELU, protocols="sds:grid=2,idsds", methods="IxG,Guided Backprop"))
    assert "Left out because not defined here: 3" in [e.label for e in at.expander]
    assert "fine-tuned" in words(at)
    at = finished(press(at, "Start"))
    assert board(at)["method"] == ["IxG"]
    assert "defined for ReLU networks" in words(at)


def test_where_nothing_is_defined_one_sentence_says_why(data: Path) -> None:
    at = small(data, model=GELU, methods="Guided Backprop")
    until(at, lambda at: bool(at.error))
    assert "defined for ReLU networks" in at.error[0].value
    assert "Traceback" not in words(at)


@pytest.mark.parametrize("folder", ["nowhere/at/all", "empty"])
def test_a_bad_folder_gets_one_sentence_and_other_data_can_be_chosen(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    at = small(tmp_path / folder, model=[TINY, TWIN], protocols="sds:grid=2:target=prediction")
    until(at, lambda at: bool(at.error))
    assert len(at.error) == 1
    assert "Traceback" not in words(at)
    control(at, "s_data").set_value("photos")
    planned(at)


def test_a_model_that_cannot_be_loaded_is_one_sentence_and_the_others_run(data: Path) -> None:
    at = small(data, model=[TINY, "efficientnet_lite0@/nowhere/weights.pth"])
    until(at, lambda at: bool(at.error) and "of memory" in words(at))
    assert "There is no file" in at.error[0].value


# A run


def test_a_run_ends_in_the_scores_that_the_library_gives(data: Path) -> None:
    at = done(small(data))
    expected = {row["method"]: row for row in api(data).table()}
    found = board(at)
    assert found["method"] == list(expected)
    np.testing.assert_allclose(found["mean"], [row["mean"] for row in expected.values()])
    assert found["rank"] == [f"{r['first']}–{r['last']}" if r["first"] != r["last"] else str(r["first"]) for r in expected.values()]
    assert found["n"] == [6, 6, 6]
    assert "higher is better · chance 0" in words(at)
    assert "18 results computed, 0 cached" in words(at)


def test_what_is_known_is_shown_without_a_click(data: Path) -> None:
    api(data, store=open_store())
    at = finished(small(data))
    assert "0 results computed, 18 cached" in words(at)


def test_a_running_run_shows_its_scores_so_far_and_can_be_cancelled_and_resumed(data: Path, gate: threading.Event) -> None:
    at = press(planned(small(data)), "Start")
    until(at, lambda at: bool(at.dataframe))
    assert "6 of 18 results" in nodes(at, "progress")[0].proto.text
    assert board(at)["method"] == ["IxG"]
    assert buttons(at)[-1] == "Cancel"
    press(at, "Cancel")
    until(at, lambda at: "ancelled, " in words(at))
    assert "6 of 18 results computed" in words(at)
    assert open_store().runs()[0].state == "cancelled"
    gate.set()
    finished(press(at, "Resume"))
    assert "12 results computed, 6 cached" in words(at)
    assert open_store().runs()[0].state == "done"


def test_a_reload_finds_its_run_and_two_tabs_share_one(data: Path, gate: threading.Event) -> None:
    at = press(planned(small(data)), "Start")
    until(at, lambda at: bool(at.dataframe))
    other = small(data).run()
    assert "Cancel" in buttons(other)
    assert board(other) == board(at)
    gate.set()
    finished(other)
    assert board(finished(at)) == board(other)
    assert len(open_store().runs()) == 1


def test_a_run_that_another_process_left_is_offered_and_goes_on_from_there(data: Path) -> None:
    def stop(event: Any) -> None:
        if event.done >= 6:
            raise Cancelled("cancelled")

    spec = replace(wanted(data, METHODS).runs()[0], methods=parse_methods("IxG@Input,Random"))
    with pytest.raises(Cancelled):
        pages.shared.run_jobs.run(make_plan(spec, MODELS["tiny"], attrlib.load_dataset(data), open_store()), stop)
    at = planned(small(data, protocols="sds"))
    assert "Unfinished runs: 1" in [e.label for e in at.expander]
    at = finished(press(at, "Resume"))
    assert board(at)["method"] != []
    assert re.search(r"results computed, [1-9]\d* cached", words(at))
    assert link(at)["methods"] == "IxG,Random"
    assert not [e for e in at.expander if e.label.startswith("Unfinished")]


def test_a_folder_that_vanishes_during_a_run_ends_in_one_sentence(data: Path, gate: threading.Event) -> None:
    at = press(planned(small(data)), "Start")
    until(at, lambda at: bool(at.dataframe))
    shutil.rmtree(data)
    press(at, "Cancel")
    until(at, lambda at: "ancelled, " in words(at) and bool(at.error))
    assert at.button(key="s_Resume").disabled
    assert "Traceback" not in words(at)


def test_a_long_job_lets_all_others_in_and_they_come_in_order() -> None:
    queue, order, begun, go = Queue("long"), [], threading.Event(), threading.Event()

    def work(on_progress: Callable[..., None]) -> None:
        begun.set()
        go.wait(LIMIT)
        on_progress(1, 2, "news")
        order.append("long")

    long = queue.submit("long", work, priority=Priority.LONG)
    assert begun.wait(LIMIT)
    others = [
        queue.submit(
            name,
            lambda _p, name=name: order.append(name),
            priority={"quick": Priority.QUICK, "second": Priority.LONG}.get(name, Priority.NORMAL),
        )
        for name in ("second", "map", "quick")
    ]
    go.set()
    assert all(job.wait(LIMIT) for job in (long, *others))
    assert order == ["quick", "map", "long", "second"]
    assert (long.news, queue.find("long"), queue.find("nothing")) == ("news", long, None)
    queue.close()


# Results


def test_a_method_can_be_chosen_and_its_images_are_the_best_median_and_worst(data: Path) -> None:
    at = done(small(data))
    control(at, "s_method").set_value("Random")
    finished(at)
    values = np.sort(next(s.values for (_, m), s in api(data).scores.items() if str(m) == "Random"))[::-1]
    assert titles(at) == [f"{what} {value:.3f}" for what, value in zip(("Best", "Median", "Worst"), values[[0, 3, 5]], strict=True)]
    assert len(nodes(at, "image")) == 6


@pytest.mark.parametrize("protocol", ["gridpg:confidence=0.5", "difull:confidence=0.5", "randomisation", "sensitivity:samples=2"])
def test_example_images_of_any_protocol_are_shown_with_the_map_it_judged(protocol: str, data: Path) -> None:
    at = done(small(data, protocols=protocol, methods="IxG,Sobel", limit=3))
    assert len(nodes(at, "image")) >= 2
    assert not at.error


def test_an_example_that_cannot_be_read_says_why_and_can_be_tried_again(data: Path) -> None:
    at = done(small(data, methods="IxG,Random", limit=1))
    kept = {path: path.read_bytes() for path in map(Path, attrlib.load_dataset(data).paths())}
    for path in kept:
        path.write_bytes(b"no picture")
    other = next(name for name in ("IxG", "Random") if name != at.session_state["s_method"])
    control(at, "s_method").set_value(other)
    at = until(at, lambda at: buttons(at).count("Try again") == 3)
    assert texts(at).count(":material/block:") == 3
    for path, content in kept.items():
        path.write_bytes(content)
    at = finished(press(at, "Try again"))
    assert len(nodes(at, "image")) == 6
    assert "Try again" not in buttons(at)


@pytest.mark.parametrize("view", ["Intervals", "Box", "Violin", "Differences", "Cost", "Models"])
def test_every_plot_is_drawn(view: str, data: Path) -> None:
    at = done(small(data, model=[TINY, TWIN]))
    at.session_state["s_view"] = view
    finished(at)
    charts = nodes(at, "plotly_chart")
    assert len(charts) == 1
    figure = json.loads(charts[0].proto.spec)
    names = {y for trace in figure["data"] for y in (trace.get("y") or []) if isinstance(y, str)}
    assert view == "Cost" or len(names & {"IxG", "Grad-CAM", "Random"}) >= 2


def test_a_link_restores_what_of_the_results_was_looked_at(data: Path) -> None:
    looked = {"shown": "sensitivity:samples=2", "on": TWIN, "plot": "Box", "examples": "Random", "item": "2"}
    at = done(small(data, model=[TINY, TWIN], protocols="sds:grid=2,sensitivity:samples=2", **looked))
    for key, value in (("s_protocol", looked["shown"]), ("s_model", TWIN), ("s_view", "Box"), ("s_method", "Random"), ("s_item", 2)):
        assert at.session_state[key] == value
    assert titles(at)[0].startswith("Chosen")
    at.session_state["s_method"] = "IxG"
    finished(at)
    address = {name: at.query_params[name] for name in looked}
    assert {name: own if isinstance(own, str) else own[0] for name, own in address.items()} == looked | {"examples": "IxG"}
    assert any("examples=IxG" in code.value for code in at.code)


def test_what_a_link_wants_to_look_at_and_is_not_there_is_left_out(data: Path) -> None:
    at = done(small(data, shown="idsds", on="nobody", plot="Pie", examples="IG", item="99999"))
    assert not at.error
    assert at.session_state["s_protocol"] == "sds:grid=2"


@pytest.mark.parametrize("view", ["Agreement on methods", "Agreement on items"])
def test_two_protocols_are_compared(view: str, data: Path) -> None:
    at = done(small(data, protocols="sds:grid=2,sensitivity:samples=2"))
    at.session_state["s_view"] = view
    finished(at)
    figure = json.loads(nodes(at, "plotly_chart")[0].proto.spec)
    assert figure["data"][0]["x"] == ["SDS (grid 2)", "Sensitivity<br>(samples 2)"]


def test_the_values_of_the_paper_stand_beside_ours(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.analysis.leaderboard, "published", lambda spec, classes: 0.25 if str(spec.methods[0]) == "IxG" else None)
    at = done(small(data, limit=5))
    frame = at.dataframe[0].value
    assert dict(zip(frame["method"], frame["paper"], strict=True))["IxG"] == 0.25
    assert frame["paper"].isna().sum() == 2


@pytest.mark.parametrize("kind", ["PNG", "SVG"])
def test_a_plot_is_saved_as_the_chosen_kind_of_file(kind: str, data: Path) -> None:
    at = done(small(data))
    at.session_state["s_format"] = kind
    finished(at)
    config = json.loads(nodes(at, "plotly_chart")[0].proto.config)
    assert config["toImageButtonOptions"]["format"] == kind.lower()
    assert config["displayModeBar"]


@pytest.mark.parametrize(
    ("customdata", "chosen"),
    [(["IxG"], ("IxG", None, None)), (["IxG", 3], ("IxG", 3, None)), (["IxG", TWIN], ("IxG", None, TWIN))],
    ids=["a method", "one of its items", "a method on a model"],
)
def test_a_click_on_a_point_chooses_what_it_stands_for(customdata: list, chosen: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(s_method="Random", s_item=1, s_model=None)
    monkeypatch.setattr(plots.st, "session_state", state)
    plots.pick([])
    assert state.s_method == "Random"
    plots.pick([{"customdata": customdata}])
    assert (state.s_method, state.s_item, state.s_model) == chosen


def test_another_model_can_be_looked_at(data: Path) -> None:
    at = done(small(data, model=[TINY, TWIN]))
    assert at.session_state["s_model"] == TINY
    control(at, "s_model").set_value(TWIN)
    finished(at)
    assert f"on {TWIN}" in words(at)


def test_several_protocols_can_be_looked_at_one_by_one(data: Path) -> None:
    at = done(small(data, protocols="sds:grid=2,sensitivity:samples=2"))
    at.session_state["s_protocol"] = "sensitivity:samples=2"
    finished(at)
    assert "lower is better" in words(at)


def outcome(data: Path, *models: str) -> dict[str, run_jobs.Finished]:
    """What a run of these models has ended in."""
    done(small(data, model=list(models)))
    found = {entry: run_jobs.find(own) for entry in models for own in wanted(data, METHODS, entry).runs()}
    return {entry: job.result for entry, job in found.items() if job is not None}


def wanted(data: Path, methods: str, entry: str = TINY) -> choice.Wanted:
    chosen = tuple(map(short.short_method, parse_methods(methods)))
    run = replace(
        choice.PHOTOS.run,
        data=str(data),
        protocols=tuple(map(short.short_protocol, parse_protocols("sds:grid=2"))),
        methods=chosen,
        limit=6,
    )
    return choice.Wanted((parse_model(entry),), run)


def test_exports_hold_the_leaderboard_and_every_item(data: Path) -> None:
    found = outcome(data, TINY, TWIN)
    table = list(csv.DictReader(io.StringIO(takeaway.csv_table(takeaway.plain_rows(takeaway.boards(found))).decode())))
    assert [(r["model"], r["method"]) for r in table] == [
        (name, row.method) for name, own in found.items() for rows in own.leaderboards.values() for row in rows
    ]
    items = list(csv.DictReader(io.StringIO(takeaway.csv_table(takeaway.items(found)).decode())))
    assert len(items) == 2 * 3 * 6
    names = {item.id: item.name for item in attrlib.load_dataset(data)}
    assert {(row["item"], row["name"]) for row in items} <= names.items()
    content = json.loads(takeaway.everything(found))
    assert len(content["manifests"]) == 2
    assert content["manifests"][0]["spec"]["spec"]["limit"] == 6
    captions = takeaway.captions(found)
    assert list(captions) == ["sds:grid=2"]
    assert captions["sds:grid=2"].endswith("seed 0. Higher is better.")
    latex = takeaway.latex_table(takeaway.boards(found), captions)
    assert latex.count(r"\begin{tabular}{lrr}") == 1
    assert r"efficientnet\_lite0@tiny" in latex
    assert "Mean over 6 items." in latex
    assert latex.count(r"$\pm$") == 2 * 3


def test_the_report_is_one_file_that_needs_nothing_else(data: Path) -> None:
    html = takeaway.report(outcome(data, TINY, TWIN)).decode()
    assert html.count("<script src") == 0
    assert "plotly.js" in html
    assert "python -m attrlib score" in html
    assert html.count('class="plotly-graph-div"') >= 2 * 4 + 1
    assert "Models and methods" in html


def test_names_in_a_report_are_text_and_not_html() -> None:
    from attrlib.figures.report import Section, html_report

    html = html_report("<b>", "a & b", [Section("<i>", rows=[["<script>"]], columns=["<u>"])], {"<s>": "</pre>"}).decode()
    assert all(tag not in html.split("</head>")[1] for tag in ("<b>", "<i>", "<u>", "<s>"))
    assert "&lt;script&gt;" in html


# Links


def test_the_link_restores_everything(data: Path) -> None:
    fields = {
        "model": [TINY, TWIN], "data": str(data), "protocols": "sds:grid=2,gridpg:confidence=0.5", "methods": "IxG@Middle,RISE@Middle:samples=9,Sobel@Middle",
        "limit": "all", "seed": "3", "ci_width": "0.2", "fast": "true", "classes": "index", "deletion_tuned": "true", "same": "false",
    }  # fmt: skip
    at = planned(start(**fields))
    again = {name: at.query_params[name] for name in at.query_params}
    found = {k: v if isinstance(v, list) and len(v) > 1 else (v[0] if isinstance(v, list) else v) for k, v in again.items()}
    assert {k: found[k] for k in fields} == fields
    assert control(at, "s_layer").value == "Middle"
    assert "at most" in words(at)


def test_every_option_of_a_run_has_a_control(data: Path) -> None:
    at = small(data).run()
    for option in options_of(RunSpec):
        assert control(at, f"s_{option.name}") is not None


def test_the_link_of_one_run_opens_the_page_with_the_models_that_it_shares_its_grids_with(data: Path) -> None:
    run = replace(wanted(data, "IxG").runs()[0], filter_models=(parse_model(TWIN),))
    fields = dict(parse_qsl(run.link()[1:]))
    found, problems = choice.read_fields({name: [text] for name, text in fields.items()}, choice.PHOTOS)
    assert problems == []
    assert [model.text for model in found.models] == [run.model.text, TWIN]
    assert replace(found.run, model=run.model, filter_models=run.filter_models) == run


def test_several_models_share_their_grids_unless_that_is_switched_off(data: Path) -> None:
    at = small(data, model=[TINY, TWIN], protocols="gridpg:confidence=0.5", methods="IxG").run()
    for same in (True, False):
        control(at, "s_same").set_value(same).run()
        lines = [c.value for c in at.code if "attrlib score" in c.value]
        assert ["--filter-models" in line for line in lines] == [same, same]
        assert link(at)["same"] == str(same).lower()
    at = small(data, model=[TINY, TWIN], protocols="sds", methods="IxG").run()
    assert not any("--filter-models" in c.value for c in at.code)


def test_parameters_of_a_protocol_and_a_method_can_be_set(data: Path) -> None:
    at = small(data, methods="RISE", protocols="sds").run()
    at.number_input(key="s_protocols-form-sds-grid").set_value(3)
    at.selectbox(key="s_protocols-form-sds-baseline").set_value("blur")
    next(b for b in at.button if b.label == "Apply").click().run()
    at.number_input(key="s_methods-form-RISE-samples").set_value(9)
    [b for b in at.button if b.label == "Apply"][-1].click().run()
    assert not at.exception
    assert link(at)["protocols"] == "sds:grid=3:baseline=blur"
    assert link(at)["methods"] == "RISE:samples=9"


def test_methods_of_two_targets_are_told_apart_in_leaderboard_plot_and_link(data: Path) -> None:
    at = done(small(data, methods="IxG,IxG:target=contrast:k=2,Grad-CAM:target=contrast"))
    assert control(at, "s_methods").value == ["IxG", "IxG@Input:channels=sum:target=contrast:k=2:by=weights:strength=1.0", "Finer-CAM"]
    names = ["IxG", "IxG:target=contrast:k=2", "Grad-CAM:target=contrast"]
    assert sorted(board(at)["method"]) == sorted(names)
    assert set(control(at, "s_method").options) == set(names)
    assert link(at)["methods"] == ",".join(names)
    assert {row["method"]: row["mean"] for row in api(data, link(at)["methods"]).table()} == dict(
        zip(board(at)["method"], board(at)["mean"], strict=True)
    )
    assert "contrast" in words(at)
    plot = json.loads(nodes(at, "plotly_chart")[0].proto.spec)
    assert all(name in json.dumps(plot) for name in names)


def test_a_target_of_the_class_can_be_chosen_for_all_methods(data: Path) -> None:
    at = small(data, methods="IxG,Grad-CAM").run()
    assert control(at, "s_explained").options == [TARGETS[name].title for name in ("logit", "probability", "contrast")]
    control(at, "s_explained").set_value("contrast")
    at.run()
    control(at, "s_explained_contrast_k").set_value(2)
    at.run()
    assert link(at)["methods"] == "IxG:target=contrast:k=2,Grad-CAM:target=contrast:k=2"
    again = start(**link(at)).run()
    assert (control(again, "s_explained").value, control(again, "s_methods").value) == ("contrast", ["IxG", "Grad-CAM"])
    everything = small(data, methods="all").run()
    control(everything, "s_explained").set_value("probability")
    again = start(**link(everything.run())).run()
    assert (control(again, "s_explained").value, control(again, "s_methods").value) == ("probability", [choice.ALL])


def test_a_target_that_is_not_the_class_is_refused_with_the_reason(data: Path) -> None:
    at = until(small(data, methods="IxG:target=versus:other=1"), lambda at: "explains something else" in words(at))
    assert not at.exception
    assert control(at, "s_explained").value == "versus"


def test_all_that_are_defined_stands_for_every_method(data: Path) -> None:
    at = small(data, methods="all").run()
    assert control(at, "s_methods").value == [choice.ALL]
    assert link(at)["methods"] == "all"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", "resnet5000", "Unknown model"),
        ("protocols", "sdss", "Did you mean sds"),
        ("protocols", "sds:grid=99", "out of range"),
        ("methods", "Gard-CAM", "Did you mean Grad-CAM"),
        ("limit", "-4", "limit"),
        ("seed", "x", "Seed='x' is not valid"),
        ("ci_width", "wide", "width='wide' is not valid"),
        ("classes", "guess", "Unknown way to match classes"),
        ("nonsense", "1", "Unknown field"),
        ("model", "![x](https://example.org)", "https\\://example.org"),
    ],
)
def test_a_link_with_nonsense_gets_a_message_and_the_page_works(field: str, value: str, says: str, data: Path) -> None:
    at = small(data, **{field: value}).run()
    assert not at.exception
    assert says.lower() in texts(at).lower()
    press(at, "Dismiss")
    assert says.lower() not in texts(at).lower()
    assert "Start" in buttons(at)


# Figures


def line(name: str, mean: float, seconds: float) -> charts.Line:
    values = np.array([mean - 0.1, mean, mean + 0.1])
    return charts.Line(name, summary(values), values, seconds)


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    lines = [line("slow best", 0.9, 3), line("fast", 0.2, 0.1), line("beaten", 0.1, 0.5), line("middle", 0.5, 1)]
    assert [own.name for own in charts.front_of(lines)] == ["fast", "middle", "slow best"]
    assert [own.name for own in charts.front_of(lines, higher_is_better=False)] == ["fast", "beaten"]


def test_ties_with_the_best_are_hollow() -> None:
    rng = np.random.default_rng(0)
    best, near = rng.normal(0.5, 0.1, 30), rng.normal(0.5, 0.1, 30)
    found = {"near": paired_difference(near, best), "far": paired_difference(best - 1, best)}
    figure = charts.differences(found, "best", charts.Scale("S", True))
    assert {trace.marker.symbol: list(trace.y) for trace in figure.data} == {"circle": ["far"], "circle-open": ["near"]}


def test_a_score_without_any_defined_item_is_drawn_and_has_images() -> None:
    values = np.full(3, np.nan)
    own = charts.Line("none", summary(values), values, 1.0)
    for make in (charts.intervals, charts.distributions, charts.pareto):
        assert make([own, line("some", 0.5, 1)], charts.Scale("S", True)).to_json()


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.browser
def test_from_a_link_to_the_worst_image_and_a_file_to_take_away(browser: Browser, data: Path, tmp_path: Path) -> None:
    with serve() as app:
        page = visit(browser, f"{app}/scores?data={data}&protocols=sds:grid=2&methods=IxG,Random,Sobel&limit=4")
        expect(page.get_by_text("12 results, 0 % cached")).to_be_visible()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("Example images for")).to_be_visible()
        expect(page.locator('img[alt^="Worst"]')).to_have_count(2)
        expect(page.get_by_text("12 results computed")).to_be_visible()
        page.reload()
        expect(page.locator('img[alt^="Worst"]')).to_have_count(2)
        chosen = page.get_by_role("combobox", name="Example images for")
        before = chosen.input_value()
        board = page.locator('[data-testid="stDataFrame"]')
        box = board.bounding_box()
        assert box is not None
        board.click(position={"x": 120, "y": 36 * 2.5 + 36})
        expect(chosen).not_to_have_value(before)
        # Streamlit drops the file of a download if the page reruns meanwhile, as it does when the new pictures are there.
        expect(page.locator('img[alt^="Worst"]')).to_have_count(2)
        settle(page)
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Report (HTML)").click()
        download.value.save_as(tmp_path / "report.html")
        page.close()
        report = browser.new_page()
        report.goto((tmp_path / "report.html").as_uri())
        expect(report.locator(".main-svg").first).to_be_visible()
        report.close()


def test_a_preset_takes_the_place_of_the_methods(data):
    at = planned(small(data))
    at.button(key="scores_preset_erdem").click().run()
    assert not at.exception
    assert control(at, "s_methods").value[1:4] == ["Deconvolution", "Guided Backprop", "Guided Grad-CAM"]
    at.button(key="scores_preset_rao").click().run()
    assert not at.exception
    assert control(at, "s_layer").value == selection.ALL_LAYERS
    assert len(control(at, "s_methods").value) == 12


def test_scores_that_span_decades_are_told_apart_by_a_logarithmic_scale() -> None:
    scale = charts.Scale("Infidelity", higher_is_better=False)
    far = [charts.Line(name, summary(own), own, 0.1) for name, own in (("a", np.array([1e-5, 2e-5])), ("b", np.array([0.2, 0.3])))]
    for figure in (charts.intervals(far, scale), charts.distributions(far, scale)):
        assert figure.layout.xaxis.type == "log"
    assert charts.pareto(far, scale).layout.yaxis.type == "log"
    near, chance = [line("a", 0.2, 0.1), line("b", 0.3, 0.2)], charts.Scale("GridPG", higher_is_better=True, chance=0.25)
    assert charts.intervals(near, scale).layout.xaxis.type is None
    assert charts.intervals(far, chance).layout.xaxis.type is None
