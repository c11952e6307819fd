"""Study 10: which protocols recover a truth that is known, on maps that are right to a known degree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attrlib.analysis.recovery import Recovery, recovery
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import image_items
from attrlib.engine.results import Score
from attrlib.engine.run import Event, RunListener
from attrlib.engine.selection import class_map
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols import PROTOCOLS
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import Paper, param, params_of
from attrlib.significance import Place, exceeding, rank_table
from attrlib.specs import ModelSpec, ProtocolSpec, RunSpec, StudySpec
from attrlib.statistics import paired_difference, summary
from attrlib.store import Store
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.ladder import DAMAGES, NUISANCES, ladder_of, mask_truth, removal_truth, step_of, steps_of
from attrlib.studies.traits import ModelTraits, centres, differs_in, family
from attrlib.studies.words import interval, listed, numbers, point

META_PAPER = Paper(
    "Hedström et al. 2023",
    "The Meta-Evaluation Problem in Explainable AI: Identifying Reliable Estimators with MetaQuantus",
    "https://arxiv.org/abs/2302.07265",
)
NORMALISED = "infidelity:normalize=true"
REMOVAL, TRIGGER = "parts", "trigger"
"""Truths: what the removal of parts takes from the logit, and the trigger that decides the class of a trojaned model."""
GIVEN = {"parts", "masks"}
"""What protocols need that are told where the truth lies; their recovery is given by construction, and they are not ranked."""


@STUDIES.register
@dataclass(frozen=True)
class Meta(Study):
    """Protocols on maps that are right to a known degree: the truth, and copies of it with more and more damage.

    The plan of the analysis was written before the first run:

    - The truth on the birds is, for each part, what its removal from the scene takes from the logit of the label, spread over the pixels
      of the part; on a trojaned model, the mask of the trigger. It is damaged in four ways (noise mixed in, blur, shift, flipped signs),
      each in four degrees, which draw the same random numbers.
    - The main outcome is the recovery of an image: Spearman's correlation of rightness and score over the degrees, averaged over the four
      ways; 0 where the scores are equal. Its mean over images has Student's interval.
    - Protocols are ranked by paired t tests over the same images, corrected over all pairs of a model (Holm). A protocol recovers the
      truth if its mean is above 0 by a one-sided t test, corrected over the protocols of a model (Holm).
    - Protocols that read the parts (with a trigger, also those that read masks) know the truth by construction and are not ranked. Changed
      after the first run: those that read masks are not ranked on parts either, because all parts lie inside the mask of the bird.
    - Hypotheses: (1) IDSDS on a tuned model recovers the truth better than SDS on the plain model; (2) rescaling the truth by 100 moves
      infidelity further than any damage, and normalised infidelity not at all; (3) compactness and entropy, which do not see the model,
      do not recover the truth.
    """

    name, number = "meta", 10
    title = "Which metric recovers the truth?"
    question = "Does a protocol score maps higher the closer they are to a known truth?"
    see = (
        "Each dot is a protocol's recovery with its 95 % CI: 1 if it always orders the maps by their damage, 0 if its order is arbitrary. The "
        "table has the share of wrongly ordered pairs, the images that it takes to tell two neighbouring degrees apart, the recovery for each "
        "kind of damage, and how far changes that should not matter (scale, resolution, light smoothing) move the score, as a share of the "
        "distance between the truth and the worst map."
    )
    saw = (
        "MetaQuantus asks how resilient a metric is to small perturbations and how it reacts to disruptive ones. Without ground truth it cannot "
        "tell whether a metric prefers the right maps."
    )
    papers = (META_PAPER, IDSDS_PAPER)
    minutes = 10.0
    shows_notes = False
    limit: int = param(48, "Images for each model", low=4, high=100_000)
    steps: int = param(16, "Steps of protocols that draw a curve", low=2, high=1000)

    def models(self) -> list[str]:
        tuned = [traits for traits in centres(family(tuned=True)) if traits.family in ("resnet", "vit")]
        plain = {traits.name: traits for traits in family(tuned=False)}
        pairs = [
            name for traits in tuned for name in (traits.name.removesuffix("_tuned"), traits.name) if name in plain or name == traits.name
        ]
        return [*pairs, *(traits.name for traits in family(TROJANED))]

    def prepared(
        self, spec: StudySpec, traits: ModelTraits, model: Classifier, data: Dataset, store: Store, on_progress: RunListener
    ) -> tuple[StudySpec, Dataset]:
        if spec.methods:
            raise DataError("the study meta makes its own maps, from the truth; leave --methods out")
        if trojaned(traits):
            spec = replace(spec, data=TROJANED)
            data = load_dataset(TROJANED)
        elif not data.parts:
            raise DataError(f"{data.name} has no images with single parts removed, so the truth is unknown; choose --data birds")
        of_items = RunSpec(ModelSpec(""), spec.data, (), (), self.limit, spec.seed, classes=spec.classes)
        items = image_items(data, class_map(of_items, model, data), self.limit, spec.seed, labelled=True).items
        truth = (mask_truth if trojaned(traits) else removal_truth)(
            Evaluator(model, store, spec.seed), data, items, lambda done, total: on_progress(Event(f"truth, image {done} of {total}"))
        )
        names = [data.item_name(item.images[0]) for item in items]
        return replace(spec, methods=ladder_of(truth, [item.id for item in items], names, spec.seed, store.folder)), data

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        left_out = {"idsds", "sds"} - {deletion(traits)}
        judges = {name: cls() for name, cls in PROTOCOLS.items() if cls.items == "images" and cls.quick and name not in left_out}
        names = [name for name, protocol in judges.items() if protocol.cost.inputs and not protocol.other_maps]
        return [self.run_of(spec, traits, model, [text], spec.methods) for text in (*map(self._protocol, names), NORMALISED)]

    def _protocol(self, name: str) -> str:
        curve = any(field.name == "steps" for field in params_of(PROTOCOLS[name]))
        return str(ProtocolSpec(name, (("steps", self.steps),) if curve else ()))

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        found = {result.traits: _recoveries(result) for result in results}
        found = {traits: recoveries for traits, recoveries in found.items() if recoveries}
        if not found:
            raise DataError("no protocol has a score of all maps on these models; choose other models or more images")
        rows: list[Row] = []
        panels: list[Panel] = []
        findings: list[str] = []
        more: list[str] = []
        for traits, recoveries in found.items():
            truth = TRIGGER if trojaned(traits) else REMOVAL
            known = {name: each for name, each in recoveries.items() if GIVEN & set(PROTOCOLS[ProtocolSpec.parse(name).name].needs)}
            judged = {name: each for name, each in recoveries.items() if name not in known}
            places = rank_table({name: each.values for name, each in judged.items()})
            above = exceeding({name: each.values for name, each in judged.items()})
            rows += [_row(traits, truth, place.name, judged[place.name], place) | {"recovers": above[place.name]} for place in places]
            rows += [_row(traits, truth, name, each, None) for name, each in known.items()]
            panels.append(_panel(traits, truth, places, known))
            findings.append(_best(traits, truth, places, above))
            more += _others(traits, judged, above)
        more += _hypotheses(found)
        figure = StudyFigure(
            "Recovery of the known order of maps, by protocol and model; 0 is an arbitrary order.", tuple(panels), stacked=True
        )
        return Analysis(" ".join(findings), more, rows, [figure])


TROJANED = "birds-trojaned"


def trojaned(traits: ModelTraits) -> bool:
    """Return whether a trigger decides the class of a model."""
    return "trojaned" in traits.name


def _recoveries(result: ModelResults) -> dict[str, Recovery]:
    """Return the recovery of each protocol that has scores of all maps, by its text form."""
    by_protocol: dict[str, dict[str, Score]] = {}
    for protocol, method, score in result.scores():
        step = step_of(method)
        if step is not None:
            by_protocol.setdefault(_short(protocol), {})[step] = score
    wanted = [*NUISANCES, *(step for kind in DAMAGES for step in steps_of(kind))]
    found = {}
    for name, scores in by_protocol.items():
        if not set(wanted) <= scores.keys():
            continue
        keys = scores[wanted[-1]].keys
        values = {
            step: np.array([dict(zip(score.keys, score.values, strict=True)).get(key, math.nan) for key in keys])
            for step, score in scores.items()
        }
        damaged = [np.stack([values[step] for step in steps_of(kind)]) for kind in DAMAGES]
        found[name] = recovery(damaged, {kind: values[kind] for kind in NUISANCES}, scores[wanted[-1]].sign)
    return found


def _short(protocol: ProtocolSpec) -> str:
    """Return a protocol's text form without the number of steps, which the study sets for all."""
    return str(replace(protocol, params=tuple((name, value) for name, value in protocol.params if name != "steps")))


def _row(traits: ModelTraits, truth: str, name: str, found: Recovery, place: Place | None) -> Row:
    result = summary(found.values)
    row: Row = {"model": traits.name, "tuned": traits.tuned, "truth": truth, "protocol": name} | numbers(result)
    row |= {"n": result.n, "undefined": result.undefined, "first": place.first if place else "", "last": place.last if place else ""}
    row |= {"errors": found.errors, "images": found.images}
    row |= dict(zip(DAMAGES, found.kinds, strict=True))
    return row | dict(found.reactions) | {"by construction": place is None}


def _panel(traits: ModelTraits, truth: str, places: Sequence[Place], known: Mapping[str, Recovery]) -> Panel:
    series = [Series("ranked", tuple(point(place.name, place.summary) for place in places))]
    if known:
        series.append(Series("by construction", tuple(point(name, summary(each.values)) for name, each in known.items())))
    return Panel("dots", f"{traits.name}, truth: {truth}", "", "recovery, higher is better →", tuple(series), level=0.0)


def _best(traits: ModelTraits, truth: str, places: Sequence[Place], above: Mapping[str, bool]) -> str:
    leaders = [place.name for place in places if place.first == 1]
    first = places[0]
    if not above[first.name]:
        return f"On {traits.name} (truth: {truth}), no protocol recovers the order of the maps."
    ties = [name for name in leaders if name != first.name]
    tied = f", not significantly different from {listed(ties, 20)}" if ties else ", significantly better than all others"
    return f"On {traits.name} (truth: {truth}), **{first.name}** recovers the order best ({interval(first.summary)}){tied}."


def _others(traits: ModelTraits, judged: Mapping[str, Recovery], above: Mapping[str, bool]) -> list[str]:
    none = [name for name in judged if not above[name]]
    scaled = [name for name, each in judged.items() if each.reactions["scale"] > MOVED]
    smoothed = [name for name, each in judged.items() if each.reactions["smoothing"] > MOVED]
    sentences = [f"{traits.name}: {listed(none, 20)} {'does' if len(none) == 1 else 'do'} not recover the order."] if none else []
    sentences += [f"{traits.name}: the scale of the map alone moves {listed(scaled, 20)}."] if scaled else []
    return sentences + ([f"{traits.name}: light smoothing moves {listed(smoothed, 20)} by over a tenth of the range."] if smoothed else [])


MOVED = 0.1
"""Reaction from which a change counts as seen."""


Found = Mapping[ModelTraits, Mapping[str, Recovery]]
"""The recovery of each protocol by model."""


def _hypotheses(found: Found) -> list[str]:
    """Return what became of the hypotheses of the docstring."""
    sentences = []
    for tuned, recoveries in found.items():
        plain = next((each for traits, each in found.items() if not traits.tuned and differs_in(traits, tuned) == "tuned"), None)
        if plain is None or "idsds" not in recoveries or "sds" not in plain:
            continue
        a, b = recoveries["idsds"].values, plain["sds"].values
        if len(a) == len(b):
            gap = paired_difference(a, b)
            words = (
                "is not significantly different"
                if gap.tie
                else "recovers the truth better"
                if gap.mean > 0
                else "recovers the truth less well"
            )
            sentences.append(
                f"Hypothesis 1: IDSDS on {tuned.name} {words} than SDS on the plain model ({interval(gap)}).".replace(
                    "different than", "different from"
                )
            )
    return [*sentences, *_hypothesis_2(found), *_hypothesis_3(found)]


def _hypothesis_2(found: Found) -> list[str]:
    both = {traits: recoveries for traits, recoveries in found.items() if {"infidelity", NORMALISED} <= recoveries.keys()}
    if not both:
        return []
    moved, normalised = ([recoveries[name].reactions["scale"] for recoveries in both.values()] for name in ("infidelity", NORMALISED))
    held = [traits.name for traits, a, b in zip(both, moved, normalised, strict=True) if a > 1 and b < MOVED / 100]
    return [
        f"Hypothesis 2 holds on {len(held)} of {len(both)} models: the scale moves infidelity by {min(moved):.1g} to {max(moved):.1g} times its range, "
        f"and normalised infidelity by at most {max(normalised):.1g} times."
    ]


def _hypothesis_3(found: Found) -> list[str]:
    sentences = []
    for name in ("compactness", "entropy"):
        of_models = {traits: recoveries[name] for traits, recoveries in found.items() if name in recoveries}
        above = [traits.name for traits, each in of_models.items() if exceeding({name: each.values})[name]]
        by_kind = np.mean([each.kinds for each in of_models.values()], 0) if of_models else []
        kinds = listed([f"{kind} {value:.2f}" for kind, value in zip(DAMAGES, by_kind, strict=False)])
        if above:
            sentences.append(
                f"Hypothesis 3 does not hold for {name}, which recovers the order on {listed(above, 20)} (mean recovery by damage: {kinds})."
            )
        elif of_models:
            sentences.append(f"Hypothesis 3 holds for {name}, which recovers the order on no model (mean recovery by damage: {kinds}).")
    return sentences
