import math
import tracemalloc
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy import stats
from support.waiting import counted_calls

from attrlib.errors import DataError, SpecError
from attrlib.significance import Place, rank_table
from attrlib.statistics import paired_difference, ranks, spearman, summary

pytestmark = pytest.mark.filterwarnings("error")
NAN, INF = math.nan, math.inf


def draws(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


# Ranks and Spearman's correlation


@pytest.mark.parametrize("shape", [(7,), (5, 1), (5, 16), (3, 4, 50), (0, 4), (2, 0)])
@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_ranks_are_those_of_scipy(shape: tuple[int, ...], levels: int) -> None:
    values = np.random.default_rng(0).integers(-levels, levels, shape) / 4
    result = ranks(torch.from_numpy(values))
    assert result.dtype == torch.float64
    assert result.shape == shape
    assert np.array_equal(result.numpy(), stats.rankdata(values, axis=-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64])
def test_ranks_are_of_any_type_of_number(dtype: torch.dtype) -> None:
    assert ranks(torch.tensor([3, 1, 3, 0, 3], dtype=dtype)).tolist() == [4, 2, 4, 1, 4]


def test_ranks_of_zeros_of_both_signs_and_of_infinities() -> None:
    assert ranks(torch.tensor([0.0, INF, -0.0, -INF, INF])).tolist() == [2.5, 4.5, 2.5, 1, 4.5]


def test_only_the_row_with_a_nan_has_no_ranks() -> None:
    result = ranks(torch.tensor([[1.0, NAN, 3.0], [3.0, 2.0, 1.0]]))
    assert result[0].isnan().all()
    assert result[1].tolist() == [3, 2, 1]


def test_ranks_change_nothing_and_take_transposed_values_that_need_a_gradient() -> None:
    values = torch.tensor([[1.0, 2.0], [0.0, 5.0], [7.0, 3.0]], requires_grad=True)
    assert ranks(values.T).tolist() == [[2, 1, 3], [1, 3, 2]]
    assert values.tolist() == [[1, 2], [0, 5], [7, 3]]


@pytest.mark.parametrize("levels", [3, 8, 10**9])
def test_spearman_is_that_of_scipy_row_by_row(levels: int) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, levels, (40, 25)).astype(float) for _ in range(2))
    b[::2] += a[::2]
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    result = spearman(torch.from_numpy(a), torch.from_numpy(b))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_spearman_is_exactly_one_for_a_rising_and_minus_one_for_a_falling_function() -> None:
    values = torch.randn(50, 97, generator=torch.Generator().manual_seed(0))
    assert spearman(values, values.exp()).tolist() == [1.0] * 50
    assert spearman(values, -values).tolist() == [-1.0] * 50


@pytest.mark.parametrize("bad", [[0.1, 0.1, 0.1], [1.0, NAN, 3.0], [1.0, INF, 3.0], [1.0, -INF, 3.0]])
def test_spearman_is_undefined_where_either_row_is_constant_or_not_finite_and_only_there(bad: list[float]) -> None:
    good = [1.0, 2.0, 4.0]
    a, b = torch.tensor([bad, good, good, bad]), torch.tensor([good, bad, good, bad])
    result = spearman(a, b)
    assert result.isnan().tolist() == [True, True, False, True]
    assert result[2] == 1


@pytest.mark.parametrize("k", [0, 1])
def test_spearman_of_less_than_two_values_is_undefined(k: int) -> None:
    assert spearman(torch.zeros(3, k), torch.zeros(3, k)).isnan().tolist() == [True] * 3


def test_spearman_refuses_values_that_would_broadcast() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\) and \(1, 3\)"):
        spearman(torch.rand(2, 3), torch.rand(1, 3))


# Summary


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_a_summary_is_the_mean_with_the_t_interval_of_scipy(n: int) -> None:
    values = draws(n) + 5
    result = summary(values)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (result.mean, result.low, result.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert (result.n, result.undefined) == (n, 0)


def test_a_summary_leaves_out_and_counts_undefined_values() -> None:
    result = summary(np.array([NAN, 1.0, INF, 2.0, -INF, 4.0]))
    assert (result.n, result.undefined) == (3, 3)
    assert (result.mean, result.low, result.high) == tuple(getattr(summary(np.array([1, 2, 4])), name) for name in ("mean", "low", "high"))


def test_a_summary_of_one_value_has_no_interval_and_of_none_no_mean() -> None:
    one = summary(np.array([NAN, 3.0]))
    assert (one.mean, one.n, one.undefined) == (3.0, 1, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    for values, undefined in ([], 0), ([NAN, NAN], 2):
        none = summary(np.array(values))
        assert (none.n, none.undefined) == (0, undefined)
        assert all(map(math.isnan, (none.mean, none.low, none.high)))


def test_a_summary_of_equal_values_has_an_interval_of_no_width() -> None:
    result = summary(np.full(8, 0.25, dtype=np.float32))
    assert (result.mean, result.low, result.high) == (0.25, 0.25, 0.25)


def test_a_summary_adds_up_in_float64() -> None:
    values = np.array([1e8, 1, 1, 1, 1, -1e8], dtype=np.float32)
    assert summary(values).mean == pytest.approx(4 / 6, rel=1e-6)


def test_a_summary_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        summary(draws(3)).mean = 0.0  # type: ignore[misc]


# Paired differences


@pytest.mark.parametrize(("method", "skewed"), [("percentile", False), ("percentile", True), ("BCa", False)])
def test_for_many_items_the_interval_is_that_of_scipys_bootstrap(method: str, skewed: bool) -> None:
    a, b = draws(800), draws(800, 1)
    a = a**2 if skewed else a
    result = paired_difference(a, b)
    expected = stats.bootstrap((a - b,), np.mean, method=method, rng=np.random.default_rng(0)).confidence_interval
    width = expected.high - expected.low
    assert result.mean == pytest.approx((a - b).mean(), rel=1e-12)
    assert result.low == pytest.approx(expected.low, abs=0.03 * width)
    assert result.high == pytest.approx(expected.high, abs=0.03 * width)
    assert result.n == 800


def test_for_few_items_the_interval_is_wider_than_the_plain_percentile_interval_by_as_much_as_it_should() -> None:
    a, b = draws(12), draws(12, 1)
    result = paired_difference(a, b, resamples=100_000)
    level = 1 - 2 * stats.norm.cdf(math.sqrt(12 / 11) * stats.t.ppf(0.025, 11))
    expected, plain = (
        stats.bootstrap(
            (a - b,), np.mean, confidence_level=c, n_resamples=100_000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        for c in (level, 0.95)
    )
    width = expected.high - expected.low
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.02 * width)
    assert result.high - result.low > 1.1 * (plain.high - plain.low)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_for_fewer_than_five_items_the_interval_is_students_t(n: int) -> None:
    a, b = draws(n), draws(n, 1)
    result, expected = paired_difference(a, b), summary(a - b)
    assert (result.mean, result.low, result.high, result.n) == (expected.mean, expected.low, expected.high, n)


def test_from_five_items_on_the_interval_lies_within_the_differences() -> None:
    values = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    result = paired_difference(values, np.zeros(5))
    assert 0 <= result.low < result.mean < result.high <= 1
    assert summary(values).low < 0


NOISES: dict[str, tuple[Callable[..., np.ndarray], float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "skewed": (lambda rng, size: rng.exponential(size=size), 1.0),
    "right or wrong": (lambda rng, size: rng.choice([0.0, 1.0], p=[0.7, 0.3], size=size), 0.3),
}


@pytest.mark.parametrize(
    ("noise", "n", "least"), [("normal", 6, 0.91), ("normal", 20, 0.93), ("skewed", 40, 0.905), ("right or wrong", 60, 0.92)]
)
def test_about_95_of_100_intervals_hold_the_true_difference(noise: str, n: int, least: float) -> None:
    draw, mean = NOISES[noise]
    samples = draw(np.random.default_rng(0), (1000, n))
    bootstraps = [paired_difference(sample, np.zeros(n), seed=i, resamples=1000) for i, sample in enumerate(samples)]
    for intervals in (bootstraps, [summary(sample) for sample in samples]):
        share = np.mean([interval.low <= mean <= interval.high for interval in intervals])
        assert least <= share <= 0.975


@pytest.mark.parametrize("n", [2, 4, 5, 200])
def test_identical_values_differ_by_exactly_nothing(n: int) -> None:
    result = paired_difference(draws(n), draws(n))
    assert (result.mean, result.low, result.high, result.n) == (0, 0, 0, n)
    assert result.tie


@pytest.mark.parametrize("n", [3, 40])
def test_a_constant_difference_is_not_a_tie(n: int) -> None:
    result = paired_difference(np.arange(n) + 0.5, np.arange(n))
    assert (result.mean, result.low, result.high, result.tie) == (0.5, 0.5, 0.5, False)


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_a_small_difference_is_a_tie_and_a_large_one_is_none(shift: float) -> None:
    a = draws(50)
    b = a + 0.5 * draws(50, 1)
    assert paired_difference(a, b).tie
    clear = paired_difference(a + shift, b)
    assert not clear.tie
    assert min(clear.low * shift, clear.high * shift) > 0


def test_pairing_counts_what_differs_and_not_what_is_common_to_both() -> None:
    common = 100 * draws(100)
    assert not paired_difference(common + 1, common + 0.1 * draws(100, 1)).tie


def test_items_without_both_values_are_left_out() -> None:
    a, b = draws(30), draws(30, 1)
    a[3], a[4], b[4], b[5], b[6] = NAN, NAN, NAN, INF, -INF
    a[6] = -INF
    keep = np.setdiff1d(np.arange(30), [3, 4, 5, 6])
    assert paired_difference(a, b) == paired_difference(a[keep], b[keep])
    assert paired_difference(a, b).n == 26


@pytest.mark.parametrize(("a", "b", "n"), [([], [], 0), ([NAN, 1], [1, NAN], 0), ([5, NAN], [1, 1], 1)])
def test_less_than_two_common_items_are_a_tie_without_an_interval(a: list[float], b: list[float], n: int) -> None:
    result = paired_difference(np.array(a), np.array(b))
    assert result.n == n
    assert result.tie
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    assert math.isnan(result.mean) if n == 0 else result.mean == 4


def test_the_seed_decides_the_interval_and_nothing_else_does() -> None:
    a, b = draws(40), draws(40, 1)
    np.random.seed(0)
    first = paired_difference(a, b, seed=3)
    np.random.seed(1)
    assert paired_difference(a, b, seed=3) == first
    assert paired_difference(a, b, seed=4).low != first.low
    assert paired_difference(a, b, seed=4).low == pytest.approx(first.low, abs=0.05 * (first.high - first.low))


def test_the_interval_turns_round_with_its_sides() -> None:
    a, b = draws(40), draws(40, 1)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), rel=1e-12)


def test_memory_stays_bounded_for_many_items() -> None:
    a, b = draws(50_000), draws(50_000, 1)
    tracemalloc.start()
    paired_difference(a, b, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_the_resamples_of_all_chunks_are_used() -> None:
    a, b = draws(50_000), draws(50_000, 1)
    result, expected = paired_difference(a, b, resamples=500), summary(a - b)
    width = expected.high - expected.low
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.12 * width)


def test_values_of_different_lengths_and_no_resamples_are_refused() -> None:
    with pytest.raises(DataError, match="3 and 4 values"):
        paired_difference(draws(3), draws(4))
    with pytest.raises(DataError, match="3 and 4 values"):
        rank_table({"a": draws(3), "b": draws(4)})
    with pytest.raises(SpecError, match="resamples=0"):
        paired_difference(draws(9), draws(9), resamples=0)


# Rank tables


def spans(table: list[Place]) -> dict[str, tuple[int, int]]:
    return {place.name: (place.first, place.last) for place in table}


def groups(*means: float, n: int = 60, noise: float = 0.2) -> dict[str, np.ndarray]:
    """One method for each mean, named a, b, c and so on, on items of very different difficulty."""
    difficulty = 5 * draws(n)
    return {chr(97 + i): difficulty + mean + noise * draws(n, i + 1) for i, mean in enumerate(means)}


def test_three_groups_share_their_ranks() -> None:
    table = rank_table(groups(0, 2, 1, 2, 0, 2))
    assert spans(table) == {"b": (1, 3), "d": (1, 3), "f": (1, 3), "c": (4, 4), "a": (5, 6), "e": (5, 6)}
    assert {place.name for place in table[:3]} == set("bdf")
    assert table[3].name == "c"


def test_a_table_is_sorted_by_mean_and_carries_the_summaries() -> None:
    values = groups(0, 2, 1, 2, 0, 2)
    table = rank_table(values)
    means = [place.summary.mean for place in table]
    assert means == sorted(means, reverse=True)
    assert all(place.summary == summary(values[place.name]) for place in table)


def test_where_lower_is_better_the_table_turns_round() -> None:
    values = groups(0, 2, 1, 2, 0, 2)
    table = rank_table(values, higher_is_better=False)
    assert [place.name for place in table] == [place.name for place in reversed(rank_table(values))]
    assert spans(table) == {"a": (1, 2), "e": (1, 2), "c": (3, 3), "b": (4, 6), "d": (4, 6), "f": (4, 6)}


def test_a_clear_winner_is_alone_on_rank_one() -> None:
    table = rank_table(groups(0, 0, 1, 0))
    assert table[0].name == "c"
    assert spans(table) == {"c": (1, 1), "a": (2, 4), "b": (2, 4), "d": (2, 4)}


def test_what_lies_between_two_methods_may_be_a_tie_with_both() -> None:
    sway = np.tile([1.0, -1.0], 20)
    # Of 40 differences of 0.1 ± 0.5 the mean is 1.3 standard errors above 0, of those of 0.2 ± 0.1 it is 12.
    values = {"a": 0 * sway, "b": 0.1 + 0.5 * sway, "c": 0.2 + 0.1 * sway}
    assert spans(rank_table(values)) == {"c": (1, 2), "b": (1, 3), "a": (2, 3)}


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_identical_methods_tie_in_the_order_given(higher_is_better: bool) -> None:
    table = rank_table({name: draws(100) for name in "zab"}, higher_is_better)
    assert [(place.name, place.first, place.last) for place in table] == [("z", 1, 3), ("a", 1, 3), ("b", 1, 3)]


@pytest.mark.parametrize("noise", NOISES)
def test_of_equal_methods_at_most_5_of_100_tables_claim_anything(noise: str) -> None:
    draw, _ = NOISES[noise]
    rng = np.random.default_rng(0)
    tables = [rank_table({str(i): draw(rng, 30) for i in range(5)}) for _ in range(400)]
    claims = sum(set(spans(table).values()) != {(1, 5)} for table in tables)
    # Three standard deviations above 5 %: without the correction it would be near 25 %.
    assert 0 < claims <= 400 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 400))


def t_test_by_hand(values: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Return the spans by Holm's procedure: the smallest p value against 5 % / N, the next against 5 % / (N-1), until one fails."""
    names = list(values)
    pairs = [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    tests = {pair: stats.ttest_rel(values[pair[0]], values[pair[1]], nan_policy="omit") for pair in pairs}
    wins = set()
    for i, (x, y) in enumerate(sorted(pairs, key=lambda pair: tests[pair].pvalue)):
        if tests[x, y].pvalue > 0.05 / (len(pairs) - i):
            break
        wins.add((x, y) if tests[x, y].statistic > 0 else (y, x))
    return {x: (1 + sum((y, x) in wins for y in names), len(names) - sum((x, y) in wins for y in names)) for x in names}


def test_once_a_pair_is_a_tie_so_is_every_pair_that_differs_less() -> None:
    x = 0.35 + np.tile([1.0, -1.0], 20)
    assert 0.05 / 3 < stats.ttest_1samp(x, 0).pvalue < 0.05
    assert set(spans(rank_table({"a": x, "b": 0 * x, "c": -x})).values()) == {(1, 3)}
    assert set(spans(rank_table({"a": x, "b": 0 * x})).values()) == {(1, 1), (2, 2)}


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_ranks_follow_from_scipys_paired_t_tests_with_holms_procedure(missing: float) -> None:
    rng = np.random.default_rng(0)
    result = set()
    for _ in range(40):
        difficulty = 5 * rng.normal(size=40)
        scores = {str(mean): difficulty + mean + rng.normal(size=40) for mean in (0, 0.3, 0.6, 0.9, 1.2)}
        values = {name: np.where(rng.random(40) < missing, NAN, x) for name, x in scores.items()}
        result |= set(spans(rank_table(values)).values())
        assert spans(rank_table(values)) == t_test_by_hand(values)
    assert len(result) >= 8


def test_pairs_are_compared_on_the_items_that_both_have() -> None:
    difficulty = 5 * draws(200)
    easy = difficulty > 0
    # b is better on every item, but defined on hard ones only, so that its mean is lower.
    values = {"a": difficulty + 0.1 * draws(200, 1), "b": np.where(easy, NAN, difficulty + 1)}
    table = rank_table(values)
    assert [place.name for place in table] == ["a", "b"]
    assert spans(table) == {"b": (1, 1), "a": (2, 2)}


def test_a_method_without_a_defined_value_comes_last_and_may_hold_any_rank() -> None:
    undefined = np.full(60, NAN)
    for higher_is_better in (True, False):
        table = rank_table({"x": undefined, **groups(1, 0), "y": undefined}, higher_is_better)
        assert [place.name for place in table][2:] == ["x", "y"]
        first, second = ("a", "b") if higher_is_better else ("b", "a")
        assert spans(table) == {first: (1, 3), second: (2, 4), "x": (1, 4), "y": (1, 4)}


def test_methods_without_common_items_are_tied() -> None:
    half = np.arange(60) < 30
    table = rank_table({"a": np.where(half, 1.0, NAN), "b": np.where(half, NAN, 0.0)})
    assert spans(table) == {"a": (1, 2), "b": (1, 2)}


@pytest.mark.parametrize(("n", "significant"), [(1, False), (2, False), (5, False), (6, True)])
def test_a_few_items_prove_nothing_however_alike_their_differences(n: int, significant: bool) -> None:
    values = {"right": np.ones(n), "wrong": np.zeros(n)}
    assert spans(rank_table(values)) == {"right": (1, 1 if significant else 2), "wrong": (2 if significant else 1, 2)}


@pytest.mark.parametrize(("different", "significant"), [(5, False), (6, True)])
def test_only_items_that_differ_count_as_proof(different: int, significant: bool) -> None:
    better = np.zeros(200)
    better[:different] = 1
    assert (rank_table({"a": better, "b": np.zeros(200)})[0].last == 1) is significant


def test_a_table_of_one_method_or_none_or_no_items() -> None:
    assert rank_table({}) == []
    assert spans(rank_table({"a": draws(9)})) == {"a": (1, 1)}
    assert spans(rank_table({"a": np.array([]), "b": np.array([])})) == {"a": (1, 2), "b": (1, 2)}


def test_time_and_memory_of_a_table_of_many_items_are_bounded() -> None:
    methods, calls, peaks = 30, [], []
    for items in (500, 50_000):
        values = {str(i): draws(items, i) for i in range(methods)}
        with counted_calls() as counted:
            rank_table(values)
        calls.append(counted.count)
        tracemalloc.start()
        try:
            rank_table(values)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert calls[1] < 1.2 * calls[0]
    assert calls[1] < 100 * methods**2
    assert peaks[1] < 2 * methods * 50_000 * 8
