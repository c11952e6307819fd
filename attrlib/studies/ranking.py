"""Study 1: which method ranks where by single deletion, and whether signs help."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.analysis.differences import aligned, paired
from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import Summary, jackknife, mean_correlation, rank_table, summary
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import every, is_signed
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, point, signed

ABSOLUTE = ":sign=absolute"


@STUDIES.register
@dataclass(frozen=True)
class Ranking(Study):
    """All methods by IDSDS (SDS on a plain model), with the map as it is and with its magnitude."""

    name, number = "ranking", 1
    title = "Which method ranks first?"
    question = "How do all methods rank by the in-domain single deletion score, and do signs matter?"
    see = (
        "Each method's mean with its interval, raw (signed) beside absolute values. Ranks that the images do not tell apart are ties. "
        "Methods of many passes run with few samples here, written behind their names: they could do better with more. Occlusion takes parts "
        "of the image away as the score does, in quarters of its cells: that it is good is no surprise. BagNets, a pass of which costs twenty of "
        "another's, are left to the study of accuracy."
    )
    saw = (
        "Intrinsically explainable models lead (BagNet-33 .80); on ResNet-50 IG with a uniform baseline (.255) and Grad-CAM (.236) come "
        "before IG (.196), RISE (.131) and IxG (.070); raw values beat absolute ones (IG-U .255 against .125)."
    )
    papers = (IDSDS_PAPER,)
    minutes = 3.0
    limit: int = param(32, "Images for each model", low=2, high=100_000)
    passes: int = param(32, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        # A pass of a BagNet costs as much as twenty of another model; its intrinsic map is covered by the study of accuracy.
        return [own.name for own in centres(family(tuned=True)) if own.family != "bagnet"]

    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods, protocol = given.methods or every(model, self.passes), deletion(traits)
        signed = [method for method in methods if is_signed(method)]
        runs = [self.run_of(given, traits, model, [protocol], methods)]
        return [*runs, *([self.run_of(given, traits, model, [protocol + ABSOLUTE], signed)] if signed else [])]

    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        for own in found:
            protocol = deletion(own.traits)
            raw, absolute = own.by_method(protocol), own.by_method(protocol + ABSOLUTE)
            places = rank_table({name: score.counted for name, score in raw.items()})
            for place in places:
                score, other = raw[place.name], absolute.get(place.name)
                row: Row = {"model": own.traits.name, "method": place.name, "first": place.first, "last": place.last} | numbers(
                    place.summary
                )
                row |= {"absolute": other.mean if other else float("nan"), "undefined": score.undefined, "seconds": score.seconds}
                rows.append(row)
            figures.append(_figure(own.traits, [p.name for p in places], raw, absolute))
            tied = [p.name for p in places if p.first == 1]
            first = f"**{places[0].name}** leads on {own.traits.name} with {interval(places[0].summary)}"
            sentences.append(first + (f", not told apart from {listed(tied[1:], 3)}" if len(tied) > 1 else ", beyond doubt") + ".")
        signs, each = _signs(found)
        headline = [sentences.pop(0), _alike(found)] if len(found) > 1 else [sentences.pop(0)]
        return Analysis(" ".join(own for own in (*headline, signs) if own), [*sentences, *each], rows, figures)


def _figure(traits: ModelTraits, names: Sequence[str], raw: dict[str, Score], absolute: dict[str, Score]) -> StudyFigure:
    kinds = (("raw values", raw), ("absolute values", absolute))
    series = tuple(Series(kind, tuple(point(n, scores[n].summary) for n in names if n in scores)) for kind, scores in kinds)
    protocol = deletion(traits).upper()
    panel = Panel("dots", f"{traits.name}", "", f"{protocol}, higher is better →", series, level=0.0)
    return StudyFigure(f"{protocol} of each method on {traits.name}; the dashed line is chance.", (panel,))


def _alike(found: Sequence[ModelResults]) -> str:
    """Describe how well the models agree on the ranking of the methods that are defined on all of them."""
    scores = [own.by_method(deletion(own.traits)) for own in found]
    common = [name for name in scores[0] if all(name in own for own in scores)]
    means = np.array([[own[name].mean for name in common] for own in scores])
    alike = jackknife(mean_correlation, means, (-1.0, 1.0))
    return f"Rankings of two of the {len(found)} models correlate with {interval(alike)} on average."


def _signs(found: Sequence[ModelResults]) -> tuple[str, list[str]]:
    """Describe what signed values gain over magnitudes: over all methods, image by image, and for each method."""
    gaps, more = [], []
    for own in found:
        raw, absolute = own.by_method(deletion(own.traits)), own.by_method(deletion(own.traits) + ABSOLUTE)
        both = [name for name in raw if name in absolute]
        if not both:
            continue
        # Methods may be undefined on different images, so each one's differences count where it has both values.
        each = [np.subtract(*aligned(raw[name], absolute[name])) for name in both]
        gaps.append(np.nanmean(np.stack(each), 0))
        differences = [paired(raw[name], absolute[name]) for name in both]
        better = [name for name, d in zip(both, differences, strict=True) if not d.tie and d.mean > 0]
        worse = [name for name, d in zip(both, differences, strict=True) if not d.tie and d.mean < 0]
        more.append(
            f"On {own.traits.name} raw values are better beyond doubt for {listed(better, 8) or 'no method'}, absolute ones for "
            f"{listed(worse, 8) or 'none'}, of {len(both)} signed methods."
        )
    if not gaps:
        return "", []
    mean = _of_models(gaps)
    return f"Over all signed methods raw values {_beat(mean)} absolute ones ({signed(mean)}).", more


def _beat(mean: Summary) -> str:
    return "are not told apart from" if mean.low <= 0 <= mean.high else "beat" if mean.mean > 0 else "lose against"


def _of_models(gaps: Sequence[np.ndarray]) -> Summary:
    """Summarise the gaps of each model over images. If the images are the same, models are averaged first."""
    same = len({len(gap) for gap in gaps}) == 1
    return summary(np.nanmean(np.stack(gaps), 0) if same else np.concatenate(gaps))
