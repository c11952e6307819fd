"""Study 1: how methods rank by single deletion, and whether signs help."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.analysis.differences import aligned, paired
from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.significance import rank_table
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import Summary, jackknife, mean_correlation, summary
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import every, is_signed
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, point, signed

ABSOLUTE = ":sign=absolute"


@STUDIES.register
@dataclass(frozen=True)
class Ranking(Study):
    """All methods by IDSDS (SDS on a plain model), with the signed map and with its absolute values."""

    name, number = "ranking", 1
    title = "Which method ranks first?"
    question = "How do all methods rank by the in-domain single deletion score, and do signs matter?"
    see = (
        "Each method's mean with its 95 % CI, for raw (signed) and for absolute values. Methods that are not significantly different are tied. "
        "Methods that need many passes run with few samples, as written after their names; they may score higher with more. Occlusion is "
        "favoured: like the score, it deletes squares of the image, of a quarter of the area of a patch. BagNets, whose passes cost twenty "
        "times those of the other models, are part of the accuracy study."
    )
    saw = (
        "Intrinsically explainable models lead (BagNet-33 .80); on ResNet-50 IG with a uniform baseline (.255) and Grad-CAM (.236) rank "
        "above IG (.196), RISE (.131) and IxG (.070); raw values beat absolute ones (IG-U .255 against .125)."
    )
    papers = (IDSDS_PAPER,)
    minutes = 3.0
    limit: int = param(32, "Images for each model", low=2, high=100_000)
    passes: int = param(32, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        # A pass of a BagNet costs as much as twenty of another model; its intrinsic map is covered by the study of accuracy.
        return [traits.name for traits in centres(family(tuned=True)) if traits.family != "bagnet"]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods, protocol = spec.methods or every(model, self.passes), deletion(traits)
        signed = [method for method in methods if is_signed(method)]
        runs = [self.run_of(spec, traits, model, [protocol], methods)]
        return [*runs, *([self.run_of(spec, traits, model, [protocol + ABSOLUTE], signed)] if signed else [])]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        for result in results:
            name, protocol = result.traits.name, deletion(result.traits)
            raw, absolute = result.by_method(protocol), result.by_method(protocol + ABSOLUTE)
            places = rank_table({method: score.counted for method, score in raw.items()})
            for place in places:
                score, other = raw[place.name], absolute.get(place.name)
                row: Row = {"model": name, "method": place.name, "first": place.first, "last": place.last} | numbers(place.summary)
                row |= {"absolute": other.mean if other else float("nan"), "undefined": score.undefined, "seconds": score.seconds}
                rows.append(row)
            figures.append(_figure(result.traits, [p.name for p in places], raw, absolute))
            tied = [p.name for p in places if p.first == 1]
            leader = f"**{places[0].name}** leads on {name} with {interval(places[0].summary)}"
            others = f"tied with {listed(tied[1:], 3)}" if len(tied) > 1 else "significantly better than every other method"
            sentences.append(f"{leader}, {others}.")
        signs, by_model = _signs(results)
        headline = [sentences.pop(0), _alike(results)] if len(results) > 1 else [sentences.pop(0)]
        return Analysis(" ".join(sentence for sentence in (*headline, signs) if sentence), [*sentences, *by_model], rows, figures)


def _figure(traits: ModelTraits, names: Sequence[str], raw: dict[str, Score], absolute: dict[str, Score]) -> StudyFigure:
    kinds = (("raw values", raw), ("absolute values", absolute))
    series = tuple(Series(kind, tuple(point(n, scores[n].summary) for n in names if n in scores)) for kind, scores in kinds)
    protocol = deletion(traits).upper()
    panel = Panel("dots", f"{traits.name}", "", f"{protocol}, higher is better →", series, level=0.0)
    return StudyFigure(f"{protocol} of each method on {traits.name}; the dashed line is chance.", (panel,))


def _alike(results: Sequence[ModelResults]) -> str:
    """Describe how well the models agree on the ranking of the methods that are defined on all of them."""
    by_model = [result.by_method(deletion(result.traits)) for result in results]
    common = [name for name in by_model[0] if all(name in scores for scores in by_model)]
    means = np.array([[scores[name].mean for name in common] for scores in by_model])
    mean = jackknife(mean_correlation, means, (-1.0, 1.0))
    return f"The rankings on the {len(results)} models have a mean pairwise correlation of {interval(mean)}."


def _signs(results: Sequence[ModelResults]) -> tuple[str, list[str]]:
    """Describe how much higher signed values score than absolute ones: over all methods, image by image, and for each method."""
    gaps, more = [], []
    for result in results:
        protocol = deletion(result.traits)
        raw, absolute = result.by_method(protocol), result.by_method(protocol + ABSOLUTE)
        both = [name for name in raw if name in absolute]
        if not both:
            continue
        # Methods may be undefined on different images: each is compared on the images where both its values are defined.
        each = [np.subtract(*aligned(raw[name], absolute[name])) for name in both]
        gaps.append(np.nanmean(np.stack(each), 0))
        differences = [paired(raw[name], absolute[name]) for name in both]
        better = [name for name, d in zip(both, differences, strict=True) if not d.tie and d.mean > 0]
        worse = [name for name, d in zip(both, differences, strict=True) if not d.tie and d.mean < 0]
        more.append(
            f"On {result.traits.name}, of {len(both)} signed methods, raw values are significantly better for {listed(better, 8) or 'none'}, "
            f"absolute values for {listed(worse, 8) or 'none'}."
        )
    if not gaps:
        return "", []
    mean = _of_models(gaps)
    return f"Over all signed methods, raw values {_compared(mean)} absolute values ({signed(mean)}).", more


def _compared(mean: Summary) -> str:
    if mean.low <= 0 <= mean.high:
        return "are not significantly different from"
    return "score higher than" if mean.mean > 0 else "score lower than"


def _of_models(gaps: Sequence[np.ndarray]) -> Summary:
    """Summarise the gaps of each model over images. If all models have the same images, average over models first."""
    same = len({len(gap) for gap in gaps}) == 1
    return summary(np.nanmean(np.stack(gaps), 0) if same else np.concatenate(gaps))
