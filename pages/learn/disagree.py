"""When metrics disagree."""

from dataclasses import dataclass

from attrlib.diagnostics.small_benchmark import method_ranks, rank_correlations, score_at_once
from attrlib.figures.lines import Axis, lines_svg
from attrlib.figures.numbers import signed
from attrlib.methods import resolve as resolve_method
from attrlib.protocols import create
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec, ProtocolSpec
from pages.learn.beyond import scores
from pages.learn.context import DATA, TUNED, LessonContext
from pages.learn.drawing import chart
from pages.learn.lesson import LESSONS, Beyond, Lesson

METHODS = ("IxG", "IG:steps=8", "Gradient", "Guided Backprop", "Grad-CAM", "Layer-CAM", "Random")
PROTOCOLS = {
    "IDSDS": "idsds",
    "deletion": "ids:order=descending:steps=16",
    "mass inside": "mass",
    "infidelity": "infidelity:normalize=true",
    "sensitivity": "sensitivity:samples=2",
    "randomisation": "randomisation:stages=1",
}


@LESSONS.register
@dataclass(frozen=True)
class Disagree(Lesson):
    """Methods ranked by six protocols on the same birds."""

    name = "disagree"
    title = "When metrics disagree"
    claim = "Six protocols, seven methods, the same birds. Each protocol asks a different question, so the best method differs."
    formula = r"r_P(m) = 1 + \#\{m' \text{ better by } P \text{ than } m\}\\[0.4em] \rho(P, Q) = \operatorname{corr}_m\big(r_P, r_Q\big)"
    letters = "P, Q: protocols. r: the rank of a method m. ρ = 1: both rank the methods alike; 0: no relation; −1: the reverse order."
    paper = IDSDS_PAPER
    shape = (3, 2)
    birds: int = param(6, "Number of birds to score", low=2, high=48)

    def show(self, context: LessonContext) -> str:
        model, birds = context.tuned, context.some_birds(self.birds)
        protocols = {name: create(ProtocolSpec.parse(text)) for name, text in PROTOCOLS.items()}
        methods = [resolve_method(MethodSpec.parse(text)) for text in METHODS]
        which = [bird.index for bird in birds]
        found = context.result(
            "disagree",
            lambda on_progress: score_at_once(model, DATA, which, list(protocols.values()), methods, context.seed, on_progress),
            which,
        )
        places = method_ranks(found, list(protocols.values()))
        lines = {method: places[:, k].tolist() for k, method in enumerate(METHODS)}
        drawn = lines_svg(lines, list(PROTOCOLS), Axis("rank, best on top", 1, len(METHODS), down=True), "protocol", size=(960, 600))
        chart(drawn, f"Ranks of {len(METHODS)} methods under {len(PROTOCOLS)} protocols, mean of {len(birds)} birds")
        names = list(PROTOCOLS)
        pairs = {(names[a], names[b]): correlation for (a, b), correlation in rank_correlations(places).items()}
        most, least = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
        return (
            f"On {len(birds)} birds {most[0]} and {most[1]} agree most (ρ {signed(pairs[most])}), {least[0]} and {least[1]} least (ρ {signed(pairs[least])}). "
            "State the question before naming the best method. With few birds, ranks also vary by chance."
        )

    def beyond(self, model: str) -> Beyond:
        return scores([f"{model}{TUNED}"], ",".join(PROTOCOLS.values()), ",".join(METHODS), limit=24)
