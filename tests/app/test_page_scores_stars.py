"""The star plot and the dimensions of FunnyBirds on the page Scores and in its report."""

import json

import pytest
from support.pages import buttons, nodes, open_page, press, texts, until, words

from attrlib.analysis.funnybirds import NAMES
from attrlib.models import parse_model
from attrlib.specs import RunSpec, parse_methods, parse_protocols
from pages.scores import plots, takeaway
from pages.shared import run_jobs, short

pytestmark = pytest.mark.usefixtures("own_cache")
MODEL, PROTOCOLS, METHODS = "birds_resnet10", "funnybirds,parts", "IxG,Random"


def test_funnybirds_has_stars_with_named_dimensions_and_other_protocols_have_none() -> None:
    at = open_page("scores", model=MODEL, protocols=PROTOCOLS, methods=METHODS, data="birds", limit=3)
    press(until(at, lambda at: "of memory" in words(at)), "Start")
    until(at, lambda at: "Run again" in buttons(at) and nodes(at, "plotly_chart"))
    assert at.selectbox(key="s_view").value == plots.STARS
    figure = json.loads(nodes(at, "plotly_chart")[0].proto.spec)
    assert {trace["type"] for trace in figure["data"]} == {"scatterpolar"}
    assert [trace["name"] for trace in figure["data"]] == ["IxG", "Random"]
    assert "the paper's are for its own data" in texts(at)
    tables = [set(frame.value.columns) for frame in at.dataframe]
    assert {"Method", *NAMES, "t"} in tables

    spec = RunSpec(parse_model(MODEL), "birds", parse_protocols(PROTOCOLS), parse_methods(METHODS), limit=3)
    job = run_jobs.find(short.short_run(spec))
    assert job is not None
    finished = job.result
    assert isinstance(finished, run_jobs.Finished)
    of_birds, of_parts = finished.result.protocols
    views = {protocol: plots.views_of(finished, protocol, {MODEL: finished}) for protocol in (of_birds, of_parts)}
    assert views[of_birds][0] == plots.STARS
    assert plots.STARS not in views[of_parts]
    html = takeaway.report({MODEL: finished}).decode()
    assert html.count("<h2>Dimensions of FunnyBirds on birds_resnet10</h2>") == 1
    assert all(f"<th scope=col>{name}</th>" in html for name in NAMES)
    assert "target sensitivity" in html
