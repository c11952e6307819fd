"""Study 8: how much scores depend on hyperparameters, on the seed and on the number of images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from attrlib.engine.results import Score
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.methods import METHODS
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import Paper, param
from attrlib.significance import rank_table
from attrlib.specs import MethodSpec, RunSpec, StudySpec
from attrlib.statistics import rank_correlation, spearman, summary
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import every
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, numbers, point

HYPERPARAMETERS_PAPER = Paper(
    "Bansal et al. 2020", "SAM: The Sensitivity of Attribution Methods to Hyperparameters", "https://arxiv.org/abs/2003.08754"
)
SWEEPS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("IG", "steps", (2, 4, 8, 16, 32)),
    ("IG", "baseline", ("zeros", "black", "white", "blur")),
    ("SmoothGrad", "samples", (2, 4, 8, 16, 32)),
    ("SmoothGrad", "noise", (0.02, 0.05, 0.15, 0.4)),
    ("Occlusion", "window", (8, 16, 24)),
    ("RISE", "samples", (16, 64, 256)),
)
"""Hyperparameters of methods, and the values to try."""
BESIDES = {("IG", "baseline"): (("steps", 8),), ("SmoothGrad", "noise"): (("samples", 8),)}
"""Other hyperparameters to set, where the default would be needlessly slow."""
DRAWS = 200
"""Pairs of image sets to draw for each number of images."""
ENOUGH = 0.9
"""Correlation at which two rankings count as the same."""


@STUDIES.register
@dataclass(frozen=True)
class Settings(Study):
    """Scores against hyperparameters and seeds, and the correlation of rankings by two disjoint sets of n images."""

    name, number = "settings", 8
    title = "How much do settings matter?"
    question = "Do steps, samples, noise, window, baseline or the seed change a score, and how many images does a ranking need?"
    see = (
        "Scores against one hyperparameter at a time, on the same images. Then the score of each method for several seeds (other images, "
        "other noise), and the correlation of two rankings by n different images each."
    )
    saw = (
        "Attribution maps and scores are sensitive to hyperparameters that are often left at arbitrary values (Bansal et al.). IDSDS was "
        "measured on all 50,000 validation images; the score of a random map has a standard deviation of 0.258 over images, so a hundred "
        "images give ±0.05."
    )
    papers = (HYPERPARAMETERS_PAPER, IDSDS_PAPER)
    minutes = 2.0
    limit: int = param(24, "Images for hyperparameters and seeds", low=2, high=100_000)
    images: int = param(128, "Images from which to draw the sets of n images", low=8, high=100_000)
    passes: int = param(8, "Passes that a map of the ranking may cost", low=1, high=100_000)
    seeds: int = param(3, "Number of seeds", low=1, high=50)

    def models(self) -> list[str]:
        return [traits.name for traits in centres(family(tuned=True)) if traits.depth][:1]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        protocol = [deletion(traits)]
        chosen = {method.name for method in spec.methods}
        swept = [m for name, key, values in SWEEPS if name in METHODS and (not chosen or name in chosen) for m in _sweep(name, key, values)]
        ranked = spec.methods or every(model, self.passes)
        many = replace(self, limit=self.images).run_of(spec, traits, model, protocol, ranked)
        seeded = [self.run_of(spec, traits, model, protocol, ranked, spec.seed + k) for k in range(1, self.seeds + 1)]
        return [*([self.run_of(spec, traits, model, protocol, swept)] if swept else []), many, *seeded]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        for result in results:
            traits, runs = result.traits, result.results
            protocol = deletion(traits)
            by_run = [{str(m): s for (p, m), s in r.scores.items() if str(p) == protocol} for r in runs]
            ranked = max(by_run, key=lambda scores: max((len(s.values) for s in scores.values()), default=0) * (len(scores) > 0))
            seeded = [scores for scores, r in zip(by_run, runs, strict=True) if r.spec.seed != runs[0].spec.seed]
            for part_figures, part_rows, words in (_needed(traits, ranked), _sweeps(traits, by_run[0]), _seeds(traits, ranked, seeded)):
                figures += part_figures
                rows += part_rows
                sentences += words
        if not sentences:
            raise DataError("no method has a hyperparameter that this study varies, and fewer than three can be ranked; add methods")
        return Analysis(sentences[0], sentences[1:], rows, figures)


def _sweep(name: str, key: str, values: Sequence[Any]) -> list[MethodSpec]:
    besides = BESIDES.get((name, key), ())
    # Windows do not overlap, so that no pixel counts twice and the cost follows the resolution.
    return [MethodSpec(name, "", ((key, v), *besides, *((("stride", v),) if key == "window" else ()))) for v in values]


Part = tuple[list[StudyFigure], list[Row], list[str]]


def _sweeps(traits: ModelTraits, scores: dict[str, Score]) -> Part:
    panels, rows, words = [], list[Row](), []
    for name, key, values in SWEEPS:
        by_value = {v: scores[str(m)] for v, m in zip(values, _sweep(name, key, values), strict=True) if str(m) in scores}
        if len(by_value) < 2:
            continue
        numeric = not isinstance(values[0], str)
        points = tuple(point(v, s.summary) for v, s in by_value.items())
        panels.append(Panel("lines", f"{name}: {key}", key, "score ↑", (Series(traits.name, points),), log_x=numeric))
        rows += [
            {"model": traits.name, "kind": "hyperparameter", "method": name, "setting": f"{key}={v}"} | numbers(s.summary)
            for v, s in by_value.items()
        ]
        low, high = min(by_value, key=lambda v: by_value[v].mean), max(by_value, key=lambda v: by_value[v].mean)
        # Best and worst are chosen by the data, so their difference needs a test corrected over all pairs.
        places = {place.name: place for place in rank_table({str(v): s.counted for v, s in by_value.items()})}
        significant = places[str(low)].first > 1 and places[str(high)].last < len(places)
        words.append(
            f"{key} of {name}: {interval(by_value[low].summary)} at {low} to {interval(by_value[high].summary)} at {high}"
            f"{'' if significant else ' (not significantly different)'}"
        )
    if not panels:
        return [], [], []
    figures = [
        StudyFigure(f"Single deletion score on {traits.name} against one hyperparameter at a time.", tuple(panels[k : k + 3]))
        for k in range(0, len(panels), 3)
    ]
    return figures, rows, [f"On {traits.name}, from the worst to the best value: {'; '.join(words)}."]


def _seeds(traits: ModelTraits, ranked: dict[str, Score], seeded: Sequence[dict[str, Score]]) -> Part:
    """Describe how much scores and rankings change with other images and other noise, compared with what the intervals imply."""
    runs = [scores for scores in seeded if scores]
    if len(runs) < 2:
        return [], [], []
    names = [name for name in ranked if all(name in scores for scores in runs)]
    order = sorted(names, key=lambda n: np.nan_to_num(ranked[n].mean, nan=-2), reverse=True)
    series = tuple(Series(f"seed {scores[order[0]].spec.seed}", tuple(point(n, scores[n].summary) for n in order)) for scores in runs)
    rows: list[Row] = [
        {"model": traits.name, "kind": "seed", "method": n, "setting": f"seed={scores[n].spec.seed}"} | numbers(scores[n].summary)
        for scores in runs
        for n in order
    ]  # fmt: skip
    means = np.array([[scores[n].mean for n in order] for scores in runs])
    spread = float(np.nanmean(means.std(0, ddof=1)))
    errors = [(s.high - s.mean) / 2 for scores in runs for s in (scores[n].summary for n in order) if np.isfinite(s.high)]
    pairs = [rank_correlation(means[i], means[j]).value for i in range(len(runs)) for j in range(i)]
    count = len(next(iter(runs[0].values())).values)
    words = (
        f"Over seeds (other images, other noise), a method's score on {count} images has a standard deviation of {spread:.3f} (mean over "
        f"methods); the intervals imply about {np.mean(errors):.3f}. The rankings of two seeds have a correlation of {np.mean(pairs):.2f}."
    )
    figure = StudyFigure(
        f"Single deletion score on {traits.name} by seed.", (Panel("dots", traits.name, "", "score →", series, level=0.0),)
    )
    return [figure], rows, [words]


def agreement_of(values: np.ndarray, n: int, draws: int = DRAWS) -> np.ndarray:
    """Correlate rankings of methods by two disjoint sets of images (Spearman).

    The sets are drawn with a fixed seed.

    Args:
        values: Values (methods, images). NaN is left out of the means.
        n: Images per set.
        draws: Number of pairs of sets.

    Returns:
        Correlations (draws,).
    """
    generator = np.random.default_rng(n)
    order = np.argsort(generator.random((draws, values.shape[1])), axis=1)
    first, second = order[:, :n], order[:, n : 2 * n]
    means = (torch.from_numpy(np.nanmean(values[:, images], 2).T) for images in (first, second))
    return spearman(*means).numpy()


def _needed(traits: ModelTraits, ranked: dict[str, Score]) -> Part:
    """Describe how well rankings by two sets of n images agree, and from which n they reach `ENOUGH`."""
    names = [n for n, s in ranked.items() if np.isfinite(s.counted).all()]
    if len(names) < 3 or len({ranked[n].ids for n in names}) != 1:
        return [], [], []
    values = np.stack([ranked[n].counted for n in names])
    sizes = [n for n in (2**k for k in range(1, 20)) if 2 * n <= values.shape[1]]
    points, rows = [], list[Row]()
    for n in sizes:
        correlations = agreement_of(values, n)
        low, high = np.nanquantile(correlations, [0.025, 0.975])
        points.append(Point(n, float(np.nanmean(correlations)), float(low), float(high)))
        rows.append(
            {
                "model": traits.name,
                "kind": "images",
                "method": "",
                "setting": f"{n} images",
                "mean": points[-1].y,
                "low": float(low),
                "high": float(high),
            }
        )
    panel = Panel(
        "lines",
        traits.name,
        "images for each ranking",
        "rank correlation ↑",
        (Series("two rankings", tuple(points)),),
        log_x=True,
        level=ENOUGH,
    )
    enough = next((p.x for p in points if p.y >= ENOUGH), None)
    last = points[-1]
    reach = f"reach a correlation of {ENOUGH} from {enough}" if enough else f"do not reach a correlation of {ENOUGH} even with {last.x}"
    text = (
        f"On {traits.name}, two rankings of {len(names)} methods by different images {reach} images each ({last.y:.2f} with {last.x} images, "
        f"95 % of draws in [{last.low:.2f}, {last.high:.2f}])."
    )
    mean = summary(values.std(1, ddof=1))
    n = len(values[0])
    more = f" Scores have a standard deviation of {mean.mean:.2f} over images, so the mean over {n} has a 95 % CI of ±{1.96 * mean.mean / n**0.5:.2f}."
    figure = StudyFigure(f"Correlation of rankings by two sets of n images on {traits.name}; the dashed line is {ENOUGH}.", (panel,))
    return [figure], rows, [text + more]
