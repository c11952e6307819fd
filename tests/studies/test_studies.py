"""Studies: the results of each on small nets, and its findings from scores with a known answer."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support.numbers import rank_tolerance
from support.runs import HALF, SIZE, classifier, net, pictures

from attrlib import Score
from attrlib.data.datasets import load_dataset
from attrlib.engine.evaluations import find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.results import RunResult
from attrlib.engine.selection import select
from attrlib.errors import Cancelled, DataError, ProtocolError, SpecError
from attrlib.methods import METHODS, attribute, create
from attrlib.models import Classifier, load_model
from attrlib.models.cells import stitch
from attrlib.postprocess import resize, smooth
from attrlib.protocols import create as create_protocol
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, StudySpec
from attrlib.statistics import Summary, jackknife, mean_correlation, rank_correlation, summary
from attrlib.store import Store
from attrlib.studies import PARSERS, STUDIES, StudyPlan, StudyResult, list_studies, parse_study, plan_study, resolve, run_study
from attrlib.studies.base import ModelResults
from attrlib.studies.choose import affordable, cost_of, every
from attrlib.studies.fractions import twins
from attrlib.studies.measure import accuracy_on, map_correlations
from attrlib.studies.runner import is_done, load_plain
from attrlib.studies.settings import agreement_of
from attrlib.studies.smoothing import scaled
from attrlib.studies.traits import FACTORS, ModelTraits, centres, differs_in, family, pairs_of, parse_architecture, traits_of
from attrlib.studies.words import interval

NAMES = [info.name for info in list_studies()]
PLAIN, TUNED = ModelSpec("timm:resnet18", "random:1"), ModelSpec("timm:resnet18", "random:2")
"""Specs of two small nets; the second counts as tuned on deleted patches."""
SMALL = {
    "ranking": {"passes": 4},
    "accuracy": {"passes": 4},
    "design": {"passes": 4},
    "localisation": {"passes": 2, "confidence": 0.5},
    "smoothing": {"steps": 2, "samples": 2, "confidence": 0.5},
    "agreement": {"passes": 1, "grids": 2},
    "robustness": {"passes": 1},
    "settings": {"images": 8, "passes": 2, "seeds": 2},
    "recent": {"passes": 2, "grids": 2},
    "meta": {"limit": 4, "steps": 2},
}
METHODS_USED = tuple(MethodSpec(name) for name in ("IxG", "Gradient", "Grad-CAM", "Random"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures(tmp_path / "pictures")


def load(spec: ModelSpec, tuned: bool) -> Classifier:
    if spec.architecture.startswith("birds_"):
        return load_plain(spec, tuned)
    if spec == TUNED:
        return attrlib.wrap_model(net(1), SIZE, HALF, HALF, deletion_tuned=True)
    return classifier()


def small(name: str, data: Path, models: Sequence[ModelSpec] = (PLAIN, TUNED), **more: Any) -> StudySpec:
    params = tuple(({"limit": 3} | SMALL[name] | more).items())
    if name == "meta":
        # It needs data with parts, and makes its own maps.
        return StudySpec(name, params, (ModelSpec("birds_resnet10"),))
    methods = (
        (*METHODS_USED, MethodSpec("IG", "", (("steps", 2),)))
        if name == "settings"
        else METHODS_USED[:2]
        if name == "smoothing"
        else METHODS_USED
    )
    methods = tuple(replace(m, layer="Input") for m in methods) if name == "smoothing" else methods
    return StudySpec(name, params, tuple(models), str(data), methods)


# Every study, small


@pytest.mark.parametrize("name", NAMES)
def test_a_study_reports_findings_and_computes_nothing_twice(name: str, data: Path, store: Store) -> None:
    spec = small(name, data)
    events: list[float] = []
    result = run_study(spec, store, lambda event: events.append(event.share), load)
    assert result.computed > 0
    assert events == sorted(events)
    assert 0 <= events[0] <= events[-1] <= 1
    assert len(result.finding) > 40
    assert result.finding.endswith(".")
    assert any(c.isdigit() for c in result.finding)
    assert result.rows
    assert result.figures
    assert all(panel.series for figure in result.figures for panel in figure.panels)
    assert (result.title, result.saw, result.see) == tuple(getattr(STUDIES[name], field) for field in ("title", "saw", "see"))
    again = run_study(spec, store, load=load)
    assert (again.computed, again.cached) == (0, result.cached + result.computed)
    assert (again.finding, again.more, again.seconds) == (result.finding, result.more, result.seconds)
    assert json.dumps(again.as_json()["rows"]) == json.dumps(result.as_json()["rows"])
    assert is_done(spec, store)


def test_a_study_runs_all_methods_where_none_are_named(data: Path, store: Store) -> None:
    spec = replace(small("ranking", data, [PLAIN], limit=2, passes=1), methods=())
    result = run_study(spec, store, load=load)
    ran, refused = (
        {str(row["method"]).partition(":")[0] for row in result.rows},
        {re.split("[@:]", method)[0] for _, _, method, _ in result.refused},
    )
    assert {"IxG", "Grad-CAM", "Random"} <= ran
    assert ran | refused >= set(METHODS)
    assert all(len(why) > 20 for *_, why in result.refused)


def test_a_single_model_has_no_pair_to_compare(data: Path, store: Store) -> None:
    with pytest.raises(DataError, match="no two of these models differ in exactly one factor"):
        run_study(small("design", data, [PLAIN]), store, load=load)


def test_a_stopped_study_resumes(data: Path, store: Store) -> None:
    spec, seen = small("ranking", data), iter(range(10**6))

    def stop(event: Any) -> None:
        if next(seen) > 20:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        run_study(spec, store, stop, load)
    assert not is_done(spec, store)
    result = run_study(spec, store, load=load)
    assert result.cached > 0
    assert result.computed > 0
    fresh = run_study(spec, Store(folder=store.folder.parent / "other"), load=load)
    assert fresh.finding == result.finding
    assert fresh.computed == result.computed + result.cached


@pytest.mark.parametrize("name", ["ranking", "meta"])
def test_a_plan_counts_cached_and_missing_results(name: str, data: Path, store: Store) -> None:
    spec = small(name, data)
    before = plan_study(spec, store, load)
    result = run_study(spec, store, load=load)
    after = plan_study(spec, store, load)
    assert (before.cached, before.missing) == (0, result.computed)
    assert before.seconds > 0
    assert (after.cached, after.missing) == (result.computed, 0)
    assert isinstance(after, StudyPlan)


def test_undefined_combinations_are_reported_and_the_rest_runs(data: Path, store: Store) -> None:
    result = run_study(small("agreement", data, [PLAIN], limit=3), store, load=load)
    reasons = {protocol: why for model, protocol, method, why in result.refused if not method or protocol == "mass"}
    assert "masks of the objects" in reasons["mass"]
    assert "images with single parts" in reasons["parts"]


def test_a_study_without_defined_combinations_fails_with_the_reason(data: Path, store: Store) -> None:
    methods = (MethodSpec("BagNet"),)
    with pytest.raises(ProtocolError, match="built-in explanation of a BagNet"):
        run_study(replace(small("ranking", data), methods=methods), store, load=load)


def test_a_new_method_or_other_weights_make_a_study_undone(data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small("ranking", data)
    run_study(spec, store, load=load)
    monkeypatch.setattr("attrlib.studies.runner.METHODS", [*METHODS, "New-CAM"])
    assert not is_done(spec, store)


# Measurements besides scores


def test_accuracy_is_the_share_of_right_predictions(data: Path, store: Store) -> None:
    model, dataset = load(TUNED, False), load_dataset(data)
    spec = resolve(StudySpec("accuracy", models=(TUNED,), data=str(data)))
    accuracy = accuracy_on(model, dataset, spec, 12, store)
    right = [int(model(model.preprocess(dataset[i].image)[None]).argmax()) == dataset.label(i) for i in dataset.order(0)[:12]]
    assert accuracy is not None
    assert (accuracy.mean, accuracy.n) == (sum(right) / 12, 12)
    folder = data.parent / "unlabelled"
    folder.mkdir()
    dataset[0].image.save(folder / "one.png")
    assert accuracy_on(model, load_dataset(folder), spec, 12, store) is None


def test_map_correlations_are_those_of_a_plain_loop(data: Path, store: Store) -> None:
    model, dataset = classifier(), load_dataset(data)
    reference, method = MethodSpec("Grad-CAM", "Final"), MethodSpec("IxG", "Input")
    spec = RunSpec(model.spec, str(data), (ProtocolSpec.parse("gridpg:confidence=0.5"),), (method, reference), 2)
    attrlib.compare(spec.protocols, model, spec.methods, dataset, limit=2, store=store)
    correlations = map_correlations(spec, reference, [0, 5], model, dataset, store, lambda _event: None)
    groups, _ = find_evaluations(spec, dataset, Evaluator(model, store))
    units = select(groups[0], spec, dataset, [Evaluator(model, store)])[0].items
    assert set(correlations) == {("IxG@Input", 0), ("IxG@Input", 5)}
    expected: dict[int, list[float]] = {0: [], 5: []}
    tolerances: dict[int, list[float]] = {0: [], 5: []}
    view = groups[0].evaluations[0].protocol.views(model)[0]
    for unit in units:
        grid = stitch(torch.stack([model.preprocess(dataset[i].image) for i in unit.images])[None], 2)
        for label in unit.labels:
            maps = attribute(view, MethodSpec("IxG", "Input"), grid, [label]).maps
            cam = resize(attribute(view, reference, grid, [label]).maps, (2 * SIZE, 2 * SIZE)).flatten()
            for kernel, values in expected.items():
                smoothed = smooth(maps, kernel).flatten()
                values.append(scipy.stats.spearmanr(smoothed, cam).statistic)
                tolerances[kernel].append(rank_tolerance(smoothed, cam))
    for kernel, values in expected.items():
        for value, reference_value, tolerance in zip(correlations["IxG@Input", kernel], values, tolerances[kernel], strict=True):
            assert value == pytest.approx(reference_value, abs=1e-9 + tolerance)
            assert tolerance < 0.01
    assert map_correlations(spec, reference, [0, 5], model, dataset, store, lambda _event: None) == correlations


# Traits of models


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("attrlib:small_resnet18_w16", ("resnet", 18, 16, True, True)),
        ("attrlib:small_resnet10_w32", ("resnet", 10, 32, True, True)),
        ("attrlib:small_fixup_resnet18_w16", ("resnet", 18, 16, False, True)),
        ("attrlib:small_x_resnet18_w16", ("resnet", 18, 16, False, False)),
        ("attrlib:small_vgg11_w16", ("vgg", 11, 16, False, True)),
        ("attrlib:small_vgg11_bn_w16", ("vgg", 11, 16, True, True)),
        ("attrlib:small_x_vgg11_w16", ("vgg", 11, 16, False, False)),
        ("idsds:resnet152", ("resnet", 152, 64, True, True)),
        ("idsds:wide_resnet50_2", ("resnet", 50, 128, True, True)),
        ("idsds:x_vgg16", ("vgg", 16, 64, False, False)),
        ("timm:resnet50.a1_in1k", ("resnet", 50, 64, True, True)),
        ("torchvision:vgg16_bn", ("vgg", 16, 64, True, True)),
        ("attrlib:small_vit6_w128", ("vit", 0, 128, None, None)),
        ("attrlib:small_bcos_resnet18_w16", ("bcos_resnet", 0, 16, None, None)),
        ("timm:vit_base_patch16_224", ("vit_base_patch16_224", 0, 0, None, None)),
        ("efficientnet_lite0", ("efficientnet_lite0", 0, 0, None, None)),
    ],
)
def test_an_architecture_is_read_from_its_name(name: str, expected: tuple) -> None:
    traits = parse_architecture(name)
    assert (traits.family, traits.depth, traits.width, traits.norm, traits.bias) == expected


def shipped(name: str, tuned: bool = False) -> ModelTraits:
    return replace(parse_architecture(f"attrlib:small_{name}"), name=name + ("_tuned" if tuned else ""), tuned=tuned)


def test_pairs_differ_in_one_factor_and_the_second_has_more_of_it() -> None:
    names = (
        "resnet18_w16",
        "resnet10_w16",
        "resnet10_w32",
        "fixup_resnet18_w16",
        "x_resnet18_w16",
        "vgg11_bn_w16",
        "vgg11_w16",
        "bagnet33_w16",
    )
    models = [shipped(name, tuned) for name in names for tuned in (False, True)]
    pairs = {factor: {(a.name, b.name) for a, b in of_factor} for factor, of_factor in pairs_of(models).items()}
    assert set(pairs) == set(FACTORS)
    assert pairs["depth"] == {("resnet10_w16", "resnet18_w16"), ("resnet10_w16_tuned", "resnet18_w16_tuned")}
    assert pairs["width"] == {("resnet10_w16", "resnet10_w32"), ("resnet10_w16_tuned", "resnet10_w32_tuned")}
    assert ("fixup_resnet18_w16", "resnet18_w16") in pairs["norm"]
    assert ("vgg11_w16", "vgg11_bn_w16") in pairs["norm"]
    assert len(pairs["norm"]) == 4
    assert pairs["bias"] == {("x_resnet18_w16", "fixup_resnet18_w16"), ("x_resnet18_w16_tuned", "fixup_resnet18_w16_tuned")}
    assert pairs["tuned"] == {(name, f"{name}_tuned") for name in names}
    assert differs_in(shipped("resnet18_w16"), shipped("x_resnet18_w16")) is None
    # The share of training data is a difference, too.
    assert differs_in(replace(shipped("resnet18_w16"), fraction=0.4), replace(shipped("resnet10_w16"), fraction=0.1)) is None
    assert differs_in(replace(shipped("resnet18_w16"), fraction=0.4), replace(shipped("resnet10_w16"), fraction=0.4)) == "depth"


def test_the_centre_of_a_family_differs_from_most_others_in_one_factor() -> None:
    models = [
        shipped(n)
        for n in (
            "bagnet33_w16",
            "resnet10_w16",
            "resnet18_w16",
            "resnet34_w16",
            "fixup_resnet18_w16",
            "vgg11_bn_w16",
            "vgg11_w16",
            "x_vgg11_w16",
        )
    ]
    assert [traits.name for traits in centres(models)] == ["resnet18_w16", "vgg11_w16", "bagnet33_w16"]


def test_traits_of_shipped_models_match_their_cards() -> None:
    for traits in family():
        model = load_model(traits.name)
        assert traits.tuned == model.deletion_tuned
        assert traits.accuracy is not None
        assert traits.accuracy.low <= traits.accuracy.mean <= traits.accuracy.high
        has_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.module.modules())
        assert traits.norm in (None, has_norm)
        if traits.bias is False:
            assert not [name for name, _ in model.module.named_parameters() if "bias" in name]
    assert {t.name for t in family(tuned=True)} | {t.name for t in family(tuned=False)} == {t.name for t in family()}
    assert traits_of(ModelSpec("timm:resnet18", "random:0")).accuracy is None


# Which methods, at which settings


@pytest.mark.parametrize("layer", ["", "Input", "Middle", "Final"])
@pytest.mark.parametrize("most", [4, 17, 64])
def test_methods_are_made_cheap_by_their_counts_alone(most: int, layer: str) -> None:
    model = load_model(family()[0].name)
    for name in METHODS:
        spec = affordable(name, model, most, layer)
        assert spec.layer == layer
        default = create(MethodSpec(name))
        try:
            at = model.layer(layer or METHODS[name].default_layer)
            before, after = cost_of(default.passes(at)), cost_of(create(spec).passes(at))
        except attrlib.AttrlibError:
            continue
        if before <= most:
            assert spec.params == ()
        else:
            # At least four samples are left, and what has no samples cannot be cheaper.
            assert after <= max(most, 40) or spec.params == () or after < before, (name, before, after)
    assert dict(affordable("RISE", model, 64).params)["samples"] == 62
    assert dict(affordable("Score-CAM", model, 17).params) == {"top": 16}
    assert dict(affordable("IG", model, 17).params)["steps"] == 12
    # Windows of 32 would be the patches of single deletion on 128 px, and the map would repeat the score.
    assert dict(affordable("Occlusion", model, 17).params) == {"window": 16, "stride": 16}
    assert dict(affordable("Occlusion", load_model(), 17).params) == {"window": 28, "stride": 28}
    assert [m.layer for m in every(model, 4, ("Input", "Final"), lambda name: name == "IxG")] == ["Input", "Final"]


def test_kernels_cover_the_same_share_of_a_smaller_grid_cell() -> None:
    assert [scaled(k, 224) for k in (0, 9, 17, 33, 65, 129, 257)] == [0, 9, 17, 33, 65, 129, 257]
    assert [scaled(k, 128) for k in (0, 9, 17, 33, 65, 129, 257)] == [0, 5, 9, 19, 37, 73, 147]
    assert scaled(257, 512) == 257
    assert scaled(9, 16) == 0


# Findings from scores with a known answer


def score(protocol: str, method: str, values: Sequence[float], seed: int = 0, ids: Sequence[str] | None = None, **details: Any) -> Score:
    protocol_spec = ProtocolSpec.parse(protocol)
    spec = RunSpec(PLAIN, "birds", (protocol_spec,), (MethodSpec.parse(method),), len(values), seed)
    names = tuple(ids or (f"{seed}-{k}" for k in range(len(values))))
    each = tuple({name: rows[k] for name, rows in details.items()} for k in range(len(values)))
    return Score(
        spec, create_protocol(protocol_spec), np.asarray(values, dtype=np.float64), names, tuple((k,) for k in range(len(values))), each
    )


def result_of(*scores: Score) -> RunResult:
    return RunResult(scores[0].spec, {(s.spec.protocols[0], s.method): s for s in scores})


def spread(mean: float, n: int = 40, width: float = 0.02, seed: int = 0) -> np.ndarray:
    """Values with exactly that mean."""
    noise = np.random.default_rng(seed).normal(0, width, n)
    return mean + noise - noise.mean()


def traits(name: str, accuracy: float | None = None, **more: Any) -> ModelTraits:
    measured = None if accuracy is None else Summary(accuracy, accuracy - 0.01, accuracy + 0.01, 100, 0)
    return replace(ModelTraits(name, "resnet", 18, 16, True, True, accuracy=measured), **more)


def test_ranking_names_the_leader_and_what_signs_are_worth() -> None:
    means = {"IG": 0.5, "IxG": 0.3, "Gradient": 0.1}
    signs = {"IG": 0.2, "IxG": 0.2, "Gradient": 0.4}
    raw = [score("sds", name, spread(mean, seed=k)) for k, (name, mean) in enumerate(means.items())]
    absolute = [score("sds:sign=absolute", name, spread(mean, seed=k)) for k, (name, mean) in enumerate(signs.items())]
    net_results = ModelResults(traits("net"), [result_of(*raw), result_of(*absolute)])
    analysis = STUDIES["ranking"]().analyse([net_results])
    assert "**IG** leads on net with 0.50 [" in analysis.finding
    assert "significantly better than every other method" in analysis.finding
    # Gaps of 0.3, 0.1 and -0.3.
    assert f"({np.mean([0.3, 0.1, -0.3]):+.2f} [" in analysis.finding
    assert "of 3 signed methods, raw values are significantly better for IG and IxG, absolute values for Gradient." in " ".join(
        analysis.more
    )
    assert [(row["method"], row["first"], row["last"]) for row in analysis.rows] == [("IG", 1, 1), ("IxG", 2, 2), ("Gradient", 3, 3)]
    twin = ModelResults(traits("twin"), [result_of(*(score("sds", n, spread(-m)) for n, m in means.items()))])
    assert "pairwise correlation of -1.00" in STUDIES["ranking"]().analyse([net_results, twin]).finding


def test_recent_methods_are_compared_with_the_best_established_one() -> None:
    means = {"IG": 0.5, "IxG": 0.2, "Blur IG": 0.7, "FullGrad": 0.5, "Grad-CAM": 0.1, "Grad-CAM:target=contrast": 0.3}
    noise = spread(0.0)
    scores = [score("sds", name, mean + (noise if name == "FullGrad" else spread(0.0))) for name, mean in means.items()]
    analysis = STUDIES["recent"]().analyse([ModelResults(traits("net"), [result_of(*scores)])])
    assert "On net by sds, the best recent method, **Blur IG** (0.70 [" in analysis.finding
    assert "is better than the best established one, IG (0.50 [" in analysis.finding
    assert "difference +0.20 [" in analysis.finding
    assert analysis.more == [
        "net, sds: Blur IG is better than IG.",
        "net, sds: FullGrad is not significantly different from IG.",
        "net, sds: Grad-CAM:target=contrast is worse than IG.",
    ]
    assert {row["method"]: row["recent"] for row in analysis.rows}["Grad-CAM:target=contrast"]
    alone = STUDIES["recent"]().analyse([ModelResults(traits("net"), [result_of(scores[0], scores[1])])])
    assert alone.finding == f"On net by sds, IG leads with {interval(scores[0].summary)}; none of these methods is recent."


def test_accuracy_reports_significant_trends_only_and_marks_intrinsic_maps() -> None:
    def family_of(qualities: Sequence[float]) -> list[ModelResults]:
        return [
            ModelResults(traits(f"m{k}", 0.5 + 0.05 * k), [result_of(score("sds", "IG", spread(q)), score("sds", "IxG", spread(q - 0.2)))])
            for k, q in enumerate(qualities)
        ]

    falling = STUDIES["accuracy"]().analyse(family_of([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]))
    assert "post-hoc method is -1.00" in falling.finding
    assert "explained worse" in falling.finding
    assert "50 to 80 % accuracy" in falling.finding
    assert "explained better" in STUDIES["accuracy"]().analyse(family_of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])).finding
    assert "no significant trend" in STUDIES["accuracy"]().analyse(family_of([0.3, 0.1, 0.4, 0.15, 0.5])).finding
    # A constant has no rank correlation, and so no trend either.
    assert "no significant trend" in STUDIES["accuracy"]().analyse(family_of([1.0] * 5)).finding
    assert "too few" in STUDIES["accuracy"]().analyse(family_of([0.3, 0.1])).finding
    bag = ModelResults(
        traits("bag", 0.6, intrinsic="BagNet"), [result_of(score("sds", "BagNet", spread(0.9)), score("sds", "IG", spread(0.1)))]
    )
    analysis = STUDIES["accuracy"]().analyse([*family_of([0.8, 0.7, 0.6, 0.5]), bag])
    assert "intrinsic map of bag scores 0.90" in analysis.finding
    assert "it beats the best post-hoc result on any other model, IG on m0 (+0.10" in analysis.finding
    marked = [p.label for s in analysis.figures[0].panels[0].series for p in s.points if p.marked]
    assert marked == ["bag"]
    assert {row["method"] for row in analysis.rows if row["kind"] == "best post-hoc"} == {"IG"}


def test_design_gives_the_difference_of_twins_image_by_image() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 60)
    shallow, deep = traits("r10", depth=10), traits("r18", depth=18)
    results = [
        ModelResults(shallow, [result_of(score("sds", "IG", 0.6 + noise), score("sds", "IxG", 0.3 + noise))]),
        ModelResults(deep, [result_of(score("sds", "IG", 0.4 + noise), score("sds", "IxG", 0.3 + noise[::-1]))]),
    ]
    analysis = STUDIES["design"]().analyse(results)
    row = next(r for r in analysis.rows if r["method"] == "IG")
    assert (row["factor"], row["less"], row["more"]) == ("depth", "r10", "r18")
    # The noise is the same on each image, and cancels.
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((-0.2, -0.2, -0.2))
    assert "lowers that of 1 of 2 methods" in " ".join(analysis.more)
    assert "-0.10 [" in analysis.finding
    twins = [
        ModelResults(traits("net"), [result_of(*(score("sds", m, spread(v)) for m, v in zip(("IG", "IxG", "Gradient", "Random"), (0.4, 0.3, 0.2, 0.1), strict=True)))]),
        ModelResults(traits("net_tuned", tuned=True), [result_of(*(score("idsds", m, spread(v)) for m, v in zip(("IG", "IxG", "Gradient", "Random"), (0.9, 0.7, 0.8, 0.1), strict=True)))]),
    ]  # fmt: skip
    assert "have a mean correlation of 0.80 over 1 pair" in " ".join(STUDIES["design"]().analyse(twins).more)


def test_localisation_compares_at_the_same_layer_and_finds_what_is_exact() -> None:
    text = "{}:grid=2:confidence=0.9"

    def grid(setting: str, method: str, share: float) -> Score:
        shares = [[share, share], [share, share + (0.0 if share == 1 else 0.02)]]
        return score(text.format(setting), method, [np.mean(s) for s in shares], shares=shares)

    scores = [
        grid("gridpg", "IG@Input", 0.26), grid("gridpg", "IxG@Input", 0.24), grid("gridpg", "IG@Final", 0.60), grid("gridpg", "Grad-CAM@Final", 0.60),
        grid("difull", "IG@Input", 1.0), grid("difull", "Grad-CAM@Final", 0.45), grid("difull", "RISE@Input", 0.3),
    ]  # fmt: skip
    analysis = STUDIES["localisation"]().analyse([ModelResults(traits("net"), [result_of(*scores)])])
    assert "gradient methods at Input score between 0.24 and 0.27 on GridPG, where chance is 0.25" in analysis.finding.replace(
        "0.245", "0.24"
    )
    assert "IG at Final differs from Grad-CAM by +0.00" in analysis.finding
    assert any("in every grid for IG." in line for line in analysis.more)
    assert any("GridPG is led by IG at Input" in line for line in analysis.more)
    boxes = {p.title: {s.name: len(s.points) for s in p.series} for p in analysis.figures[0].panels}
    assert boxes == {"GridPG": {"Input": 8, "Final": 8}, "DiFull": {"Input": 8, "Final": 4}}


def test_smoothing_finds_the_best_kernel_and_its_gain() -> None:
    protocols = {k: "gridpg" if k == 0 else f"gridpg:smoothing={k}" for k in (0, 9, 17, 33, 65, 129, 257)}
    curve = dict(zip(protocols, (0.30, 0.32, 0.40, 0.50, 0.60, 0.70, 0.65), strict=True))
    scores = [score(protocols[k], "IG@Input", spread(v)) for k, v in curve.items()]
    cam, noisy = score("gridpg", "Grad-CAM@Final", spread(0.62)), score("gridpg", "SmoothGrad:samples=4", spread(0.5))
    alike = {("IG@Input", k): [v, v + 0.02] for k, v in curve.items()}
    costs = {"IG": 10, "Grad-CAM": 1, "SmoothGrad": 4}
    results = ModelResults(
        traits("net"), [result_of(*scores), result_of(cam, noisy)], {"alike": alike, "protocols": protocols, "costs": costs}
    )
    analysis = STUDIES["smoothing"]().analyse([results])
    assert "from 0.30 [" in analysis.finding
    assert "to 0.70 [" in analysis.finding
    assert "at K = 129 (+0.40 [" in analysis.finding
    assert "beats Grad-CAM at Final (0.62 [" in analysis.finding
    assert "SmoothGrad (0.50 [" in analysis.finding
    assert "is 0.31 [" in analysis.finding
    assert "0.71 [" in analysis.finding
    lines, likeness, cost = analysis.figures[0].panels
    assert [p.y for p in lines.series[0].points] == pytest.approx(list(curve.values()))
    assert [p.y for p in likeness.series[0].points] == pytest.approx([v + 0.01 for v in curve.values()])
    assert {s.name: (s.points[0].x, round(s.points[0].y, 2)) for s in cost.series} == {
        "S-IG@Input": (10, 0.7), "Grad-CAM at Final": (1, 0.62), "SmoothGrad": (4, 0.5),
    }  # fmt: skip


@pytest.mark.parametrize("samples", [2, 10])
def test_smoothing_plots_the_cost_of_what_it_runs(samples: int, data: Path, store: Store) -> None:
    result = run_study(small("smoothing", data, [PLAIN], samples=samples), store, load=load)
    (figure,) = result.figures
    # A pass for each noisy copy, and one for a gradient.
    assert {s.name.partition("@")[0]: s.points[0].x for s in figure.panels[2].series} == {
        "S-IxG": 1, "S-Gradient": 1, "Grad-CAM at Final": 1, "SmoothGrad": samples,
    }  # fmt: skip


def test_agreement_turns_protocols_so_that_higher_is_better() -> None:
    order = ("IG", "IxG", "Gradient", "Random", "Grad-CAM")
    up, down = (0.9, 0.7, 0.5, 0.3, 0.1), (1.0, 2.0, 3.0, 4.0, 5.0)
    image = np.linspace(0, 1, 12)
    scores = [
        *(score("sds", m, v + 0.01 * image) for m, v in zip(order, up, strict=True)),
        *(score("sensitivity:samples=2", m, v - 0.01 * image) for m, v in zip(order, down, strict=True)),
        *(score("infidelity:samples=4", m, v + 0.01 * image) for m, v in zip(order, up, strict=True)),
    ]
    analysis = STUDIES["agreement"]().analyse([ModelResults(traits("net", 0.9), [result_of(*scores)])])
    rows = {(r["kind"], r["first"], r["second"]): r["mean"] for r in analysis.rows}
    # Lower sensitivity is better: it ranks as sds does. Lower infidelity is better, too, and here it ranks the opposite way.
    assert rows["over methods", "sds", "sensitivity"] == pytest.approx(1)
    assert rows["over methods", "sds", "infidelity"] == pytest.approx(-1)
    assert rows["over images", "sds", "sensitivity"] == pytest.approx(1)
    assert rows["over images", "sds", "infidelity"] == pytest.approx(-1)
    matrix = {s.name: {p.x: p.y for p in s.points} for s in analysis.figures[0].panels[0].series}
    assert matrix["sds"] == pytest.approx({"sds": 1, "sensitivity": 1, "infidelity": -1})
    assert "1 correlate positively and 2 negatively" in analysis.finding


def test_agreement_with_accuracy_and_with_the_noise() -> None:
    def model(k: int) -> ModelResults:
        scores = [score("infidelity:samples=4", m, spread(1.0 + k)) for m in ("IG", "IxG")]
        scores += [score("sensitivity:samples=2", m, spread(5.0 - k)) for m in ("IG", "IxG")]
        if k == 0:
            for n, (first, second) in {0.001: (1.0, 2.0), 0.3: (2.0, 1.0)}.items():
                scores += [score(f"infidelity:samples=4:noise={n:g}", m, spread(v)) for m, v in (("IG", first), ("IxG", second))]
        return ModelResults(traits(f"m{k}", 0.5 + 0.1 * k, fraction=0.1 * (k + 1)), [result_of(*scores)])

    analysis = STUDIES["agreement"]().analyse([model(k) for k in range(5)])
    text = " ".join([analysis.finding, *analysis.more])
    assert "infidelity of IG +1.00" in text
    assert "sensitivity of IxG -1.00" in text
    assert "trained on 10 to 50 % of the data" in text
    assert "as it is, IG then IxG" in text
    shares = (
        "From 10 to 50 % of the training data, the accuracy of 5 otherwise equal models goes from 50 to 90 %. The rank correlation with the share "
        "is: infidelity of IG +1.00"
    )
    assert shares in text
    accuracy, infidelity, sensitivity = analysis.figures[-1].panels
    assert [p.x for p in accuracy.series[0].points] == pytest.approx([10, 20, 30, 40, 50])
    assert [p.y for p in accuracy.series[0].points] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert {s.name: [round(p.y, 9) for p in s.points] for s in infidelity.series} == {key: [1, 2, 3, 4, 5] for key in ("IG", "IxG")}
    assert {s.name: [round(p.y, 9) for p in s.points] for s in sensitivity.series} == {key: [5, 4, 3, 2, 1] for key in ("IG", "IxG")}
    assert sum(row["kind"] == "infidelity over shares" for row in analysis.rows) == 10


def test_lines_over_shares_are_of_models_that_differ_in_nothing_else() -> None:
    def model(name: str, fraction: float, **other: Any) -> ModelResults:
        return ModelResults(replace(traits(name, 0.5, fraction=fraction), **other), [])

    deeper = [model(f"deep{k}", 0.1 * k, depth=50) for k in (3, 1, 2)]
    others = [model("a", 0.1), model("b", 0.2), model("c", 0.3, tuned=True), model("d", math.nan), model("e", 0.4, accuracy=None)]
    assert [[result.traits.name for result in group] for group in twins([*deeper, *others])] == [["deep1", "deep2", "deep3"]]


def test_robustness_ranks_each_change_and_compares_them() -> None:
    means = {"Grad-CAM": 0.9, "IxG": 0.5, "Gradient": 0.4, "Random": 0.0}
    scores = [score("robustness:change=rotation", m, spread(v)) for m, v in means.items()]
    scores += [score("robustness:change=contrast", m, spread(-v)) for m, v in means.items()]
    # A model without any result is named, and the others are still analysed.
    nothing = ModelResults(traits("other"), [])
    analysis = STUDIES["robustness"]().analyse([nothing, ModelResults(traits("net"), [result_of(*scores)])])
    assert analysis.finding.startswith("On other, robustness is not defined for any of the methods. On net, ")
    assert "Grad-CAM is most robust to rotation (SSIM 0.90 [" in analysis.finding
    assert "Random least (0.00" in analysis.finding.replace("-0.00", "0.00")
    assert "contrast -1.00" in analysis.finding
    assert "Random is most robust to contrast" in analysis.more[0]


def test_settings_reads_sweeps_seeds_and_the_number_of_images() -> None:
    sweep = [score("sds", f"IG:steps={n}", spread(v)) for n, v in ((2, 0.1), (4, 0.3), (8, 0.5), (16, 0.51), (32, 0.5))]
    base = {"IG": 0.6, "IxG": 0.4, "Gradient": 0.2, "Random": 0.0}
    many = [score("sds", m, spread(v, 64, 0.3, seed=k)) for k, (m, v) in enumerate(base.items())]
    seeds = [[score("sds", m, spread(v + shift), seed) for m, v in base.items()] for seed, shift in ((1, 0.05), (2, -0.05))]
    results = ModelResults(traits("net"), [result_of(*sweep), result_of(*many), *(result_of(*scores) for scores in seeds)])
    analysis = STUDIES["settings"]().analyse([results])
    text = " ".join([analysis.finding, *analysis.more])
    assert "steps of IG: 0.10 [" in text
    assert "at 2 to 0.51 [" in text
    assert "at 16" in text
    # Two values 0.1 apart have a standard deviation of 0.1 / sqrt 2.
    assert f"a standard deviation of {0.1 / math.sqrt(2):.3f} (mean over methods)" in text
    assert "The rankings of two seeds have a correlation of 1.00" in text
    assert "reach a correlation of 0.9 from" in analysis.finding
    sizes = [row["setting"] for row in analysis.rows if row["kind"] == "images"]
    assert sizes == ["2 images", "4 images", "8 images", "16 images", "32 images"]


def swept(values: np.ndarray) -> str:
    """Return the findings on a sweep of IG's steps, from values (settings, images)."""
    scores = [score("sds", f"IG:steps={n}", row) for n, row in zip((2, 4, 8, 16, 32), values, strict=False)]
    analysis = STUDIES["settings"]().analyse([ModelResults(traits("net"), [result_of(*scores)])])
    return " ".join([analysis.finding, *analysis.more])


def test_equal_settings_are_seldom_significantly_different() -> None:
    generator, claims = np.random.default_rng(0), 0
    for _ in range(100):
        images = 0.3 * generator.normal(size=48)
        claims += "not significantly different" not in swept(images + 0.1 * generator.normal(size=(5, 48)))
    # At 5 %, more than ten of a hundred have a probability of 1 %; the interval of the best and the worst alone claims 38.
    assert claims <= 10


@pytest.mark.parametrize("count", [2, 3, 5])
def test_settings_that_differ_are_significantly_different(count: int) -> None:
    values = 0.1 * np.random.default_rng(1).normal(size=(count, 48))
    assert "not significantly different" not in swept(values + np.linspace(0, 0.2, count)[:, None])
    # With several equal best settings: the worst still differs significantly.
    assert "not significantly different" not in swept(values + np.array([0.0, *[0.2] * (count - 1)])[:, None])
    assert "not significantly different" in swept(values - values.mean(1, keepdims=True) + 1e-4 * np.arange(count)[:, None])


def test_rankings_by_disjoint_images_agree_as_the_signal_allows() -> None:
    means = np.linspace(0, 1, 10)
    noise = np.random.default_rng(0).normal(0, 1, (10, 64))
    assert agreement_of(means[:, None] + 0 * noise, 8) == pytest.approx(1)
    assert abs(np.mean(agreement_of(noise - noise.mean(1, keepdims=True), 16))) < 0.4
    few, many = (np.mean(agreement_of(means[:, None] + noise, n)) for n in (2, 32))
    assert few < many
    values = means[:, None] + noise
    generator = np.random.default_rng(4)
    order = np.argsort(generator.random((200, 64)), axis=1)
    expected = [scipy.stats.spearmanr(values[:, o[:4]].mean(1), values[:, o[4:8]].mean(1)).statistic for o in order]
    assert agreement_of(values, 4) == pytest.approx(expected)


# Statistics


@pytest.mark.parametrize("n", [5, 12, 50])
def test_a_rank_correlation_has_fiellers_interval(n: int) -> None:
    generator = np.random.default_rng(n)
    a = generator.normal(size=n)
    b = a + generator.normal(size=n)
    result = rank_correlation(a, b)
    rho = scipy.stats.spearmanr(a, b).statistic
    z, half = np.arctanh(rho), scipy.stats.norm.ppf(0.975) * np.sqrt(1.06 / (n - 3))
    assert (result.value, result.low, result.high, result.n) == pytest.approx((rho, np.tanh(z - half), np.tanh(z + half), n), abs=1e-9)


def test_a_rank_correlation_of_too_few_or_constant_pairs_is_undefined() -> None:
    assert math.isnan(rank_correlation(np.array([1.0]), np.array([2.0])).value)
    assert math.isnan(rank_correlation(np.ones(6), np.arange(6.0)).value)
    few = rank_correlation(np.arange(3.0), np.arange(3.0))
    assert few.value == 1
    assert math.isnan(few.low)
    perfect = rank_correlation(np.arange(10.0), np.arange(10.0))
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.9 < perfect.low < 1
    assert rank_correlation(np.array([1, 2, np.nan, 4, 5]), np.arange(5.0)).n == 4
    with pytest.raises(DataError, match="give pairs"):
        rank_correlation(np.arange(3.0), np.arange(4.0))


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=(1, 20))
    result, expected = jackknife(lambda sample: float(sample.mean()), values), summary(values)
    assert (result.mean, result.low, result.high) == pytest.approx((expected.mean, expected.low, expected.high))
    cut = jackknife(lambda sample: float(sample.mean()), values, (result.mean - 0.01, result.mean + 0.02))
    assert (cut.low, cut.high) == pytest.approx((result.mean - 0.01, result.mean + 0.02))
    assert math.isnan(jackknife(lambda sample: float(sample.mean()), values[:, :3]).low)


def test_a_mean_correlation_is_that_of_all_pairs_of_rows() -> None:
    values = np.random.default_rng(1).normal(size=(4, 9))
    pairs = [scipy.stats.spearmanr(a, b).statistic for a, b in itertools.combinations(values, 2)]
    assert mean_correlation(values) == pytest.approx(np.mean(pairs))
    assert mean_correlation(np.vstack([values, np.ones(9)])) == pytest.approx(np.mean(pairs))


# Specs


def test_every_study_is_listed_with_its_question_papers_and_budget() -> None:
    assert NAMES == ["ranking", "accuracy", "design", "localisation", "smoothing", "agreement", "robustness", "settings", "recent", "meta"]
    for info in list_studies():
        assert info.question.endswith("?")
        assert info.papers
        assert info.models
        assert 0 < info.minutes <= 10
        assert {p.name for p in info.params} >= {"limit"}
    assert sum(info.minutes for info in list_studies()) <= 41


def test_a_link_restores_a_study_and_forgives_nonsense() -> None:
    spec = StudySpec(
        "smoothing", (("limit", 8), ("steps", 4)), (ModelSpec("timm:resnet18", "/tmp/a b.pth"), ModelSpec("efficientnet_lite0")), "photos",
        (MethodSpec("IG", "Input", (("steps", "3"),)),), 5, "name", True,
    )  # fmt: skip
    from urllib.parse import parse_qsl

    read, problems = StudySpec.read_link(dict(parse_qsl(spec.link()[1:])), StudySpec("ranking"), PARSERS)
    assert problems == []
    assert read == spec
    read, problems = StudySpec.read_link(
        {"study": "rankings", "seed": "x", "models": "nope", "colour": "red"}, StudySpec("ranking"), PARSERS
    )
    assert read == StudySpec("ranking")
    assert len(problems) == 4
    assert "--models timm:resnet18@" in spec.cli().replace("'", "")


def test_parameters_are_checked() -> None:
    assert parse_study("ranking:limit=8") == ("ranking", (("limit", 8),))
    for text, words in (
        ("rankin", "Did you mean ranking"),
        ("ranking:limit=1", "out of range"),
        ("ranking:samples=3", "unknown parameter of ranking"),
    ):
        with pytest.raises(SpecError, match=words):
            parse_study(text)
    assert resolve(StudySpec("ranking")).models
    assert dict(resolve(StudySpec("ranking")).params)["passes"] == 32


def test_results_are_json_without_infinities(data: Path, store: Store) -> None:
    result = run_study(small("robustness", data, [PLAIN]), store, load=load)
    text = json.dumps(result.as_json(), allow_nan=False)
    assert json.loads(text)["study"].startswith("robustness:")
    assert isinstance(result, StudyResult)
