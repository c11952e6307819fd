"""The dimensions of FunnyBirds against plain loops, and the summary with the numbers of the paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.scores import score as score_of

from attrlib.analysis.funnybirds import CORNERS, NAMES, dimensions, dimensions_of
from attrlib.engine.results import RunResult, Score
from attrlib.figures.star import FEW, stars
from attrlib.protocols.funnybirds import THRESHOLDS
from attrlib.specs import MethodSpec, ProtocolSpec

Details = Mapping[str, list[float]]
CURVES = ("csdc", "pc", "dc", "d")


def with_details(details: Sequence[Details], text: str = "funnybirds", method: str = "IxG") -> Score:
    return replace(score_of([0.5] * len(details), protocol=text, method=method), details=tuple(details))


def made_up(images: int, seed: int = 0) -> list[Details]:
    """Return random details, some of which are undefined."""
    draw = np.random.default_rng(seed)
    found: list[Details] = []
    for _ in range(images):
        values = {name: draw.integers(0, 3, 80) / 2 for name in CURVES} | {name: draw.random(1) for name in ("sd", "ts")}
        for name in ("csdc", "d", "sd", "ts"):
            if draw.random() < 0.2:
                values[name] = np.full_like(values[name], math.nan)
        objects = float(draw.integers(1, 9))
        counts = {"relevant": [float(draw.integers(0, objects + 1))], "objects": [objects], "accuracy": [float(draw.random() < 0.9)]}
        found.append({name: value.tolist() for name, value in values.items()} | counts)
    return found


def mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined)


def test_dimensions_match_plain_loops() -> None:
    """As in the paper: means of each dimension, the threshold that maximises their sum, then completeness, correctness and contrastivity."""
    for seed in range(4):
        details = made_up(9, seed)
        own = dimensions(with_details(details))
        assert own is not None
        best, highest = -1, 0.0
        for k in range(80):
            csdc, pc, dc, d = (mean([record[name][k] for record in details]) for name in CURVES)
            if csdc / 3 + pc / 3 + dc / 3 + d > highest + 1e-12:
                best, highest = k, csdc / 3 + pc / 3 + dc / 3 + d
        csdc, pc, dc, d = (mean([record[name][best] for record in details]) for name in CURVES)
        sd, ts = (mean([record[name][0] for record in details]) for name in ("sd", "ts"))
        relevant, objects = (sum(record[name][0] for record in details) for name in ("relevant", "objects"))
        com = ((csdc + pc + dc) / 3 + d) / 2
        expected = {
            "CSDC": csdc,
            "PC": pc,
            "DC": dc,
            "D": d,
            "SD": sd,
            "TS": ts,
            "Com": com,
            "Cor": sd,
            "Con": ts,
            "Mean": (com + sd + ts) / 3,
        }
        expected |= {"A": mean([record["accuracy"][0] for record in details]), "BI": 1 - relevant / objects}
        assert own.means == pytest.approx(expected)
        assert list(own.means) == list(NAMES)
        assert own.threshold == THRESHOLDS[best]
        for name, value in own.values.items():
            assert value.low <= value.mean <= value.high, name
        assert own.values["SD"].n + own.values["SD"].undefined == 9
        assert own.values["SD"].n == sum(not math.isnan(record["sd"][0]) for record in details)


def test_the_summary_of_the_papers_numbers() -> None:
    """ResNet-50 with IxG on the paper's own data, and the mean that its star plot shows."""
    paper = {"csdc": [0.7353], "pc": [0.602], "dc": [0.532], "d": [0.54372], "sd": [0.54592], "ts": [0.806]}
    own = dimensions(
        with_details([paper | {"accuracy": [0.998], "relevant": [174.0], "objects": [100_000.0]}], "funnybirds:threshold=0.016")
    )
    assert own is not None
    expected = {
        "A": 0.998,
        "BI": 0.99826,
        "Com": ((0.7353 + 0.602 + 0.532) / 3 + 0.54372) / 2,
        "Cor": 0.54592,
        "Con": 0.806,
        "Mean": 0.6451,
    }
    assert {name: own.means[name] for name in expected} == pytest.approx(expected, abs=5e-5)
    assert own.threshold == 0.016


def test_what_is_undefined_everywhere_is_nan_and_the_rest_is_kept() -> None:
    details = made_up(5)
    nothing: Details = {"csdc": [math.nan] * 80, "ts": [math.nan], "objects": [0.0], "relevant": [0.0]}
    own = dimensions(with_details([{**record, **nothing} for record in details]))
    assert own is not None
    assert {name for name, value in own.means.items() if math.isnan(value)} == {"CSDC", "Com", "TS", "Con", "Mean", "BI"}
    assert math.isnan(own.threshold)
    empty = dimensions(with_details([{}]))
    assert empty is not None
    assert all(map(math.isnan, empty.means.values()))


def test_only_scores_of_the_protocol_have_dimensions_and_the_best_method_comes_first() -> None:
    assert dimensions(score_of([0.5, 0.7])) is None
    best, worst = made_up(6), [{**record, "sd": [0.0], "ts": [0.0]} for record in made_up(6)]
    protocol, plain = ProtocolSpec("funnybirds"), ProtocolSpec("sds")
    methods = [MethodSpec.parse(text) for text in ("Random", "IxG")]
    scores = {(protocol, own): with_details(values, method=str(own)) for own, values in zip(methods, (worst, best), strict=True)}
    result = RunResult(scores[protocol, methods[0]].spec, scores | {(plain, methods[0]): score_of([0.1])})
    assert {text: list(map(str, own)) for text, own in dimensions_of(result).items()} == {protocol: ["IxG", "Random"]}


# The star plot


@pytest.mark.parametrize("count", [1, 2, 3, FEW, FEW + 1, 20])
def test_every_method_has_a_star_with_its_name_and_no_two_overlap(count: int) -> None:
    values = {f"method {k}": dict.fromkeys(NAMES, (k + 1) / 40) for k in range(count)}
    values["method 0"]["Con"] = math.nan
    figure = stars(values, CORNERS, "Mean", NAMES)
    assert [trace.name for trace in figure.data] == list(values)
    assert [note.text for note in figure.layout.annotations] == [f"{name} <b>{own['Mean']:.2f}</b>" for name, own in values.items()]
    for name, trace in zip(values, figure.data, strict=True):
        assert list(trace.theta) == [*CORNERS, CORNERS[0]]
        assert list(trace.r) == pytest.approx([values[name][corner] for corner in (*CORNERS, CORNERS[0])], nan_ok=True)
        assert trace.text[2] == f"{name}: completeness {values[name]['Com']:.2f}"
        assert trace.customdata[0][0] == name
    domains = [figure.layout[trace.subplot].domain for trace in figure.data]
    for k, one in enumerate(domains):
        assert 0 <= one.x[0] < one.x[1] <= 1
        assert -1e-9 <= one.y[0] < one.y[1] <= 1 + 1e-9
        assert all(a.x[1] < one.x[0] or one.x[1] < a.x[0] or a.y[1] < one.y[0] or one.y[1] < a.y[0] for a in domains[:k])
    heights = {round((one.y[1] - one.y[0]) * (figure.layout.height - 100)) for one in domains}
    assert len(heights) == 1
    assert heights <= {130, 190}
