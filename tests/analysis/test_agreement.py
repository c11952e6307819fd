"""Agreement of protocols against SciPy and plain loops, and the paper's values against its table."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.scores import score

from attrlib.analysis.agreement import agreements, over_items, over_methods
from attrlib.analysis.paper_values import published
from attrlib.engine.results import RunResult, Score
from attrlib.figures import charts
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec
from attrlib.statistics import Correlation

NAMES = ("IxG", "Grad-CAM", "Random", "Sobel")


def scores(values: np.ndarray, protocol: str = "sds", prefix: str = "photo") -> dict[str, Score]:
    """Scores of methods (k,n)."""
    ids = [f"{prefix}{i}" for i in range(values.shape[1])]
    return {name: score(row, ids, name, protocol) for name, row in zip(NAMES, values, strict=False)}


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 40)) + np.arange(4)[:, None] / 3
    return a, 0.5 * a + rng.normal(size=a.shape)


def test_over_methods_is_the_rank_correlation_of_their_means(pair) -> None:
    a, b = pair
    found = over_methods(scores(a), scores(b, "mass"))
    assert found.value == pytest.approx(spearmanr(a.mean(1), b.mean(1)).statistic)
    assert found.n == 4


def test_over_items_is_the_mean_over_methods_of_the_rank_correlation_of_their_values(pair) -> None:
    a, b = pair
    found = over_items(scores(a), scores(b, "mass"))
    assert found.value == pytest.approx(np.mean([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]))
    assert found.n == 40
    assert found.low < found.value < found.high


def test_the_intervals_are_those_of_a_plain_bootstrap_over_the_items(pair) -> None:
    a, b = pair
    rng = np.random.default_rng(1)
    drawn = [rng.integers(40, size=40) for _ in range(2000)]
    means = [spearmanr(a[:, d].mean(1), b[:, d].mean(1)).statistic for d in drawn]
    items = [np.mean([spearmanr(x[d], y[d]).statistic for x, y in zip(a, b, strict=True)]) for d in drawn]
    methods = over_methods(scores(a), scores(b, "mass"))
    assert (methods.low, methods.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.21)
    of_items = over_items(scores(a), scores(b, "mass"))
    assert (of_items.low, of_items.high) == pytest.approx(np.quantile(items, [0.025, 0.975]), abs=0.03)


def test_items_are_drawn_together_where_both_protocols_judge_the_same_ones() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=(4, 30))
    same, apart = over_methods(scores(a), scores(a, "mass")), over_methods(scores(a), scores(a, "mass", "grid"))
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert apart.value == 1
    assert apart.low < 0.9


def test_lower_is_better_is_turned_round(pair) -> None:
    a, _ = pair
    # Of sensitivity low values are good, so that the same numbers rank the other way round.
    for make in (over_methods, over_items):
        assert make(scores(a), scores(a, "sensitivity")).value == pytest.approx(-1)
        assert make(scores(a), scores(-a, "sensitivity")).value == pytest.approx(1)


def test_undefined_items_are_left_out_pair_by_pair(pair) -> None:
    a, b = (values.copy() for values in pair)
    a[0, :7], b[1, 3] = np.nan, np.nan
    found = over_items(scores(a), scores(b, "mass"))
    expected = [spearmanr(*(v[np.isfinite(x) & np.isfinite(y)] for v in (x, y))).statistic for x, y in zip(a, b, strict=True)]
    assert found.value == pytest.approx(np.mean(expected))
    assert over_methods(scores(a), scores(b, "mass")).value == pytest.approx(spearmanr(np.nanmean(a, 1), np.nanmean(b, 1)).statistic)


def test_a_constant_score_says_nothing_of_items(pair) -> None:
    a, b = (values.copy() for values in pair)
    a[3] = 0.25
    found = over_items(scores(a), scores(b, "mass"))
    assert found.value == pytest.approx(np.mean([spearmanr(x, y).statistic for x, y in zip(a[:3], b[:3], strict=True)]))


def test_what_has_nothing_in_common_is_undefined(pair) -> None:
    a, b = pair
    assert over_items(scores(a), scores(b, "difull", "grid")).n == 0
    assert over_methods(scores(a[:2]), scores(b[:2], "mass")).n == 0
    assert over_items(scores(a[:, :3]), scores(b[:, :3], "mass")).n == 0


def test_every_pair_of_a_run_is_asked_for_once_and_the_same_seed_gives_the_same(pair) -> None:
    a, b = pair
    specs = [ProtocolSpec(name) for name in ("sds", "mass", "sensitivity")]
    by_protocol = {spec: scores(values, spec.name) for spec, values in zip(specs, (a, b, a), strict=True)}
    run = RunSpec(ModelSpec("m"), "d", tuple(specs), tuple(map(MethodSpec, NAMES)))
    result = RunResult(run, {(p, MethodSpec(m)): own for p, by_method in by_protocol.items() for m, own in by_method.items()})
    found = list(agreements(result))
    assert [pair for pair, _ in found] == [(specs[0], specs[1]), (specs[0], specs[2]), (specs[1], specs[2])]
    assert found == list(agreements(result))


def test_the_figure_shows_each_pair_twice_and_what_is_undefined_in_words() -> None:
    found = {("A", "B"): Correlation(0.5, 0.25, 0.75, 9), ("A", "C"): Correlation(math.nan, math.nan, math.nan, 0)}
    figure = charts.agreement(found | {("B", "C"): Correlation(-1.0, math.nan, math.nan, 3)})
    texts = dict(zip(zip(figure.data[1].x, figure.data[1].y, strict=True), figure.data[1].text, strict=True))
    assert texts["A", "B"] == texts["B", "A"] == "0.50<br>[0.25, 0.75]"
    assert texts["C", "A"] == "no common<br>items"
    assert texts["B", "C"] == "-1.00"
    assert figure.data[0].z[0][1] == 0.5


TABLE = """
resnet18             IxG .097 IG .279 RISE .197 Grad-CAM .285
resnet50             IxG .070 IG .196 RISE .131 Grad-CAM .236
resnet101            IxG .064 IG .169 RISE .099 Grad-CAM .174
resnet152            IxG .061 IG .157 RISE .087 Grad-CAM .155
wide_resnet50_2      IxG .063 IG .175 RISE .091 Grad-CAM .224
fixup_resnet50       IxG .166 IG .305 RISE .200 Grad-CAM .359
x_resnet50           IxG .241 IG .241 RISE .227 Grad-CAM .411
vgg16                IxG .149 IG .388 RISE .308 Grad-CAM .545
vit_base_patch16_224 IxG .067 IG .135 RISE .110
bagnet33             BagNet .80
bcos_resnet50        B-cos .32
"""
CELLS = [
    (model, *cell) for line in TABLE.split("\n")[1:-1] for model, *own in [line.split()] for cell in zip(own[::2], own[1::2], strict=True)
]

# The same table the other way round, for the methods whose settings are not their defaults here.
COLUMNS = [
    "resnet18",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "fixup_resnet50",
    "x_resnet50",
    "vgg16",
    "vit_base_patch16_224",
]
SET = {
    "SmoothGrad:of=IxG:samples=4:noise=1:unit=absolute": ".012 -.005 .001 -.003 -.001 .029 .121 .034 -.001",
    "SmoothGrad:of=IG:samples=4:noise=1:unit=absolute": ".102 .049 .037 .033 .041 .122 .121 .115 .022",
    "IG:baseline=uniform": ".354 .255 .218 .200 .230 .342 .379 .475 .146",
    "IG:baseline=uniform:channels=sum-abs": ".157 .125 .088 .078 .102 .209 .220 .289 .084",
    "Smooth Grad-CAM++": ".159 .102 .066 .057 .095 .217 .254 .315",
    "Grad-CAM++": ".254 .213 .152 .134 .204 .275 .321 .443",
    "XGrad-CAM": ".285 .236 .174 .155 .224 .359 .411 .577",
}
CELLS += [(model, method, value) for method, line in SET.items() for model, value in zip(COLUMNS, line.split(), strict=False)]


def one(name: str, method: str, protocol: str = "idsds", **more: object) -> RunSpec:
    given = RunSpec(ModelSpec(f"idsds:{name}"), "val", (ProtocolSpec.parse(protocol),), (MethodSpec.parse(method),))
    return replace(given, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "method", "value"), CELLS)
def test_the_values_are_those_of_the_table(model: str, method: str, value: str) -> None:
    assert published(one(model, method), 1000) == float(value)


@pytest.mark.parametrize(
    "other",
    [
        one("resnet50", "IG:steps=20"), one("resnet50", "IG@Middle"), one("resnet50", "Grad-CAM@Middle"), one("resnet50", "RISE:samples=250"),
        one("resnet50", "Layer-CAM"), one("resnet50", "SmoothGrad"), one("vit_base_patch16_224", "Grad-CAM++"), one("vit_base_patch16_224", "Grad-CAM"), one("vgg11", "IxG"), one("resnet50", "BagNet"),
        one("resnet50", "IxG", "idsds:grid=8"), one("resnet50", "IxG", "idsds:output=probability"), one("resnet50", "IxG", "sds"),
        one("resnet50", "IxG", fast=True), one("resnet50", "IxG", model=ModelSpec("idsds:resnet50", "random:0")),
        one("resnet50", "IxG", model=ModelSpec("torchvision:resnet50")), one("resnet50", "IxG", model=ModelSpec("torchvision:resnet50", "w.pt")),
        one("resnet50", "IxG", model=ModelSpec("timm:resnet50", "w.pt"), deletion_tuned=True),
    ],
    ids=str,
)  # fmt: skip
def test_another_setting_has_no_value_of_the_paper(other: RunSpec) -> None:
    assert published(other, 1000) is None


def test_other_data_have_none_and_the_same_architecture_tuned_by_others_has() -> None:
    assert published(one("resnet50", "IxG"), 10) is None
    tuned = one("resnet50", "IxG", model=ModelSpec("torchvision:resnet50", "mine.safetensors"), deletion_tuned=True)
    assert published(tuned, 1000) == 0.070
