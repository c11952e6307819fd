"""Study 9: recent methods against those that most comparisons use, by single deletion and on grids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attrlib.analysis.differences import paired
from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.methods import METHODS
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.significance import rank_table
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec, StudySpec, TargetSpec
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import affordable, some
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, point

ESTABLISHED = ("IG", "IxG", "SmoothGrad", "LRP", "DeepLIFT", "Grad-CAM", "Layer-CAM", "RISE", "Rollout", "Chefer", "CheferLRP")
RECENT = (
    *("FullGrad", "Guided IG", "Blur IG", "XRAI", "ShapleyCAM", "RefineCAM", "AttnLRP", "CP-LRP", "LibraGrad", "LeGrad"),
    *("HSIC", "Sobol", "TIS", "ViT-CX", "Extremal perturbation"),
)
FINER = "Grad-CAM"
"""The method that is Finer-CAM if it explains a contrast."""


@STUDIES.register
@dataclass(frozen=True)
class Recent(Study):
    """Recent methods and established ones by IDSDS (SDS on a plain model), and at Input by GridPG and DiFull."""

    name, number = "recent", 9
    title = "Are recent methods better?"
    question = "Do methods of recent years score higher than those that most comparisons use?"
    see = (
        "Each method's mean with its 95 % CI. A recent method is better only if its paired difference from the best established one is "
        "significant. Methods that need many passes run with few samples, as written after their names; they may score higher with more. "
        "Occlusion is left out: like the score, it deletes squares of the image."
    )
    saw = (
        "Every paper reports that its method beats its baselines, by metrics of its own choice: AttnLRP, CP-LRP and LibraGrad faithfulness and "
        "complete gradients on transformers; LeGrad segmentation and perturbation on CLIP's ViTs; FullGrad pixel perturbation; Guided IG, Blur "
        "IG and XRAI performance curves against IG; ShapleyCAM and Finer-CAM relative drops of confidence against Grad-CAM; HSIC and Sobol "
        "deletion as good as RISE's with a fraction of its passes; TIS and ViT-CX deletion and insertion on ViTs; extremal perturbation the "
        "pointing game. None reports IDSDS, GridPG or DiFull."
    )
    papers = (IDSDS_PAPER, GRID_PAPER)
    minutes = 6.0
    limit: int = param(24, "Images for each model", low=2, high=100_000)
    grids: int = param(6, "Grids in each setting", low=2, high=100_000)
    passes: int = param(32, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [traits.name for traits in centres(family(tuned=True)) if traits.family in ("resnet", "vit")]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = spec.methods or (*some((*ESTABLISHED, *RECENT), model, self.passes), _finer())
        at_input = spec.methods or tuple(
            affordable(name, model, self.passes // 4, "Input") for name in (*ESTABLISHED, *RECENT) if name in METHODS
        )
        deleted = self.run_of(spec, traits, model, [deletion(traits)], methods)
        grids = self.run_of(spec, traits, model, ["gridpg:confidence=0.9", "difull:confidence=0.9"], at_input)
        return [deleted, replace(grids, limit=self.grids)]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        findings: list[str] = []
        more: list[str] = []
        for result in results:
            by_protocol: dict[ProtocolSpec, dict[MethodSpec, Score]] = {}
            for protocol, method, score in result.scores():
                by_protocol.setdefault(protocol, {})[method] = score
            name, panels = result.traits.name, []
            for protocol, scores in by_protocol.items():
                places = rank_table({str(method): score.counted for method, score in scores.items()})
                by_text = {str(method): (method, score) for method, score in scores.items()}
                ordered = {place.name: by_text[place.name] for place in places}
                rows += [
                    {"model": name, "protocol": protocol.name, "method": text, "recent": is_recent(method)} | numbers(score.summary)
                    for text, (method, score) in ordered.items()
                ]  # fmt: skip
                panels.append(_panel(protocol, ordered))
                sentence, others = _words(ordered)
                if protocol.name == deletion(result.traits):
                    findings.append(f"On {name} by {protocol.name}, {sentence}")
                    more += [f"{name}, {protocol.name}: {other}" for other in others]
                else:
                    more.append(f"{name}, {protocol.name} at Input: {sentence}")
            figures.append(StudyFigure(f"Recent and established methods on {name}; dashed lines are chance.", tuple(panels), stacked=True))
        return Analysis(" ".join(findings), more, rows, figures)


def _finer() -> MethodSpec:
    return MethodSpec(FINER, target=TargetSpec("contrast"))


def is_recent(method: MethodSpec) -> bool:
    """Return whether a method is one of `RECENT`, or Finer-CAM."""
    return method.name in RECENT or (method.name == FINER and method.target.name == "contrast")


Ordered = Mapping[str, tuple[MethodSpec, Score]]
"""Methods and their scores by the method's text form, best first."""


def _panel(protocol: ProtocolSpec, ordered: Ordered) -> Panel:
    groups = (("recent", True), ("established", False))
    series = tuple(
        Series(title, tuple(point(text, score.summary) for text, (method, score) in ordered.items() if is_recent(method) == recent))
        for title, recent in groups
    )
    level = next((score.protocol.chance_level for _, score in ordered.values()), None)
    return Panel("dots", protocol.name, "", "score, higher is better →", series, level=level)


def _words(ordered: Ordered) -> tuple[str, list[str]]:
    """Return the comparison of the best recent with the best established method, and which recent ones are better or worse than it."""
    recent = {text: score for text, (method, score) in ordered.items() if is_recent(method)}
    established = {text: score for text, (method, score) in ordered.items() if not is_recent(method)}
    if not recent or not established:
        text, (_, leader) = next(iter(ordered.items()))
        return f"{text} leads with {interval(leader.summary)}; none of these methods is {'established' if recent else 'recent'}.", []
    (new, score), (old, reference) = next(iter(recent.items())), next(iter(established.items()))
    gap = paired(score, reference)
    verdict = "not significantly different from" if gap.tie else "better than" if gap.mean > 0 else "worse than"
    sentence = (
        f"the best recent method, **{new}** ({interval(score.summary)}), is {verdict} the best established one, {old} "
        f"({interval(reference.summary)}; difference {interval(gap)})."
    )
    gaps = {text: paired(each, reference) for text, each in recent.items()}
    groups = {
        f"better than {old}": [text for text, gap in gaps.items() if not gap.tie and gap.mean > 0],
        f"not significantly different from {old}": [text for text, gap in gaps.items() if gap.tie],
        f"worse than {old}": [text for text, gap in gaps.items() if not gap.tie and gap.mean < 0],
    }
    return sentence, [f"{listed(names, 20)} {'is' if len(names) == 1 else 'are'} {words}." for words, names in groups.items() if names]
