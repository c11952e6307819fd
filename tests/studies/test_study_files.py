"""Study figures in Plotly and as files; the command `study`, its report and its page of findings."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
from PIL import Image
from support.runs import classifier, pictures
from typer.testing import CliRunner, Result

import attrlib.cli.study
from attrlib.errors import SpecError
from attrlib.figures.labels import places
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.figures.study_files import render
from attrlib.figures.study_plots import draw, looks_of
from attrlib.models import EMBEDDED

UP = Series("up", (Point(1, 0.2, 0.1, 0.3, "a"), Point(10, 0.4, 0.3, 0.6, "b")))
FLAT = Series("flat", (Point(1, 0.5), Point(10, 0.5)))
NAMED = Series("up", (Point("IG", 0.2, 0.1, 0.3), Point("IxG", math.nan)))
PANELS = {
    "lines": Panel("lines", "Lines", "x", "y", (UP, FLAT), log_x=True, level=0.25),
    "points": Panel("points", "Points", "x", "y", (Series("intrinsic", (Point(1, 2, 1, 3, "star", 0.5, 1.5, True),)), UP)),
    "dots": Panel("dots", "Dots", "", "score", (NAMED,), level=0.0),
    "boxes": Panel("boxes", "Boxes", "", "share", (Series("Input", tuple(Point("IG", v) for v in (0.1, 0.2, 0.6))),), level=0.25),
    "matrix": Panel("matrix", "Matrix", "", "", (Series("a", (Point("a", 1.0), Point("b", -0.5))), Series("b", (Point("a", -0.5),)))),
}


@pytest.mark.parametrize("kind", PANELS)
def test_a_study_figure_is_a_figure_with_exactly_its_numbers(kind: str) -> None:
    panel = PANELS[kind]
    figure = draw(StudyFigure("What to see.", (panel,)))
    if kind == "matrix":
        np.testing.assert_array_equal(np.array(figure.data[0].z, dtype=float), [[1, -0.5], [-0.5, math.nan]])
        assert list(figure.data[0].y) == ["a", "b"]
        return
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert set(traces) == {series.name for series in panel.series}
    for series in panel.series:
        values, places = [p.y for p in series.points], [p.x for p in series.points]
        across, up = (values, places) if kind == "dots" else (places, values)
        assert (
            list(traces[series.name].x) == pytest.approx(across, nan_ok=True) if kind == "dots" else list(traces[series.name].x) == across
        )
        assert list(traces[series.name].y) == up
    if kind == "dots":
        assert traces["up"].error_x.array[0] == pytest.approx(0.1)
    if kind == "points":
        assert traces["intrinsic"].marker.symbol[0] == "star"
        assert list(traces["intrinsic"].text) == ["star"]


@pytest.mark.parametrize("kind", PANELS)
def test_a_study_figure_is_written_as_png_svg_and_pdf_the_same_every_time(kind: str) -> None:
    study_figure = StudyFigure("What to see.", (PANELS[kind], PANELS["lines"]), stacked=kind == "dots")
    picture = Image.open(io.BytesIO(render(study_figure, "png")))
    assert picture.width == 1600
    assert np.asarray(picture.convert("L")).std() > 5
    drawing = render(study_figure, "svg")
    assert PANELS[kind].title in drawing.decode()
    assert render(study_figure, "svg") == drawing
    assert render(study_figure, "pdf").startswith(b"%PDF")
    with pytest.raises(SpecError, match="unknown format of a figure 'gif'"):
        render(study_figure, "gif")


def test_kernels_are_names_and_not_numbers() -> None:
    panel = Panel("lines", "", "kernel", "score", (Series("IG", (Point("none", 0.1), Point("9", 0.2), Point("257", 0.3))),))
    axis = draw(StudyFigure("", (panel,))).layout.xaxis
    assert (axis.type, list(axis.categoryarray)) == ("category", ["none", "9", "257"])


def test_a_series_looks_alike_in_all_panels() -> None:
    study_figure = StudyFigure("", (PANELS["lines"], PANELS["dots"]))
    assert set(looks_of(study_figure)) == {"up", "flat"}
    colours = {trace.marker.color or trace.line.color for trace in draw(study_figure).data if trace.name == "up"}
    assert len(colours) == 1


def test_labels_of_points_cover_neither_each_other_nor_points_nor_the_edge() -> None:
    alone = Panel("points", "", "x", "y", (Series("s", (Point(0.0, 0.0, label="one"), Point(1.0, 1.0, label="two"))),))
    assert places(alone, 400, 200) == {(0, 0): "top center", (0, 1): "top center"}
    # Five at one place: one on each side, none for the fifth; at 40 px no side has room.
    crowd = Panel("points", "", "x", "y", (Series("s", tuple(Point(0.5, 0.5, label="name") for _ in range(5))),))
    assert list(places(crowd, 400, 200).values()) == ["top center", "bottom center", "middle right", "middle left"]
    assert places(crowd, 20, 200) == {}
    # A point right above takes the top, and a point at the edge has no room to its right.
    pair = Panel(
        "points", "", "x", "y", (Series("s", (Point(1.0, 0.5, label="a long name"), Point(1.0, 0.53), Point(0.0, 0.0), Point(0.5, 1.0))),)
    )
    assert places(pair, 400, 200) == {(0, 0): "middle left"}
    texts = list(draw(StudyFigure("", (crowd,))).data[0].text)
    assert texts == ["name", "name", "name", "name", ""]


# The command


@pytest.fixture(autouse=True)
def _small_model(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, device: str = "auto", **options: Any) -> attrlib.Classifier:
        assert name == EMBEDDED
        return classifier()

    monkeypatch.setattr(attrlib.cli.study, "load_model", load)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def asked(tmp_path: Path) -> list[object]:
    data = pictures(tmp_path / "pictures")
    return ["study", "robustness:limit=3", "--models", EMBEDDED, "--methods", "IxG,Random", "--data", data]


def test_the_command_prints_the_finding_and_writes_report_table_and_figures(tmp_path: Path) -> None:
    done = invoke(*asked(tmp_path), "--out", tmp_path / "out", "--markdown", tmp_path / "docs" / "findings.md")
    assert done.exit_code == 0, done.output
    assert "is most robust to rotation (SSIM" in done.stdout
    assert "30 computed, 0 cached" in done.stdout
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"robustness.html", "robustness.csv", "robustness.json", "robustness-1.png", "robustness-1.svg"}
    rows = list(csv.DictReader((tmp_path / "out" / "robustness.csv").open()))
    content = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert len(rows) == len(content["rows"]) == 10
    assert [float(row["mean"]) if row["mean"] else None for row in rows] == [row["mean"] for row in content["rows"]]
    html = (tmp_path / "out" / "robustness.html").read_text()
    assert "most robust to rotation" in html
    page = (tmp_path / "docs" / "findings.md").read_text()
    assert "**Here:** On efficientnet_lite0, " in page
    assert "**The papers:**" in page
    for target in re.findall(r"\]\((findings/[^)]+)\)", page):
        assert (tmp_path / "docs" / target).is_file()
    again = invoke(*asked(tmp_path), "--json")
    assert json.loads(again.stdout)["computed"] == 0
    assert json.loads(again.stdout)["finding"] == content["finding"]


def test_a_plan_computes_nothing_and_bad_input_ends_in_one_line(tmp_path: Path) -> None:
    plan = json.loads(invoke(*asked(tmp_path), "--plan", "--json").stdout)
    assert (plan["study"], plan["missing"], plan["cached"]) == ("robustness", 30, 0)
    for arguments, words in (
        (["study", "robustnes"], "Did you mean robustness"),
        (["study", "ranking", "--models", "nope"], "unknown model 'nope'"),
        (["study", "ranking", "--limit", "1"], "out of range"),
        (["study", "all", "--limit", "4"], "--limit counts images in some studies"),
    ):
        failed = invoke(*arguments)
        assert (failed.exit_code, failed.stdout) == (2, "")
        assert words in failed.stderr
        assert failed.stderr.count("\n") == 1


def test_studies_are_listed_with_their_parameters() -> None:
    listed = json.loads(invoke("studies", "--json").stdout)
    assert [info["name"] for info in listed][:2] == ["ranking", "accuracy"]
    assert "smoothing" in invoke("studies").stdout
