"""What holds of the paper's claims on the shipped models: `python -m benchmarks.family`.

For every model on birds its accuracies, from its card, and IDSDS (SDS for plain models) of a few methods, as a Markdown table; below
it the claims of Hesse et al. (NeurIPS 2024), each with the numbers that speak for or against it. What was computed before comes
from the store.
"""

import argparse
from collections.abc import Iterable, Mapping

import torch

import attrlib
from attrlib import Score
from attrlib.models import Card, shipped
from attrlib.statistics import paired_difference, spearman

METHODS = ("IxG", "IG:steps=16", "SmoothGrad", "Grad-CAM", "Occlusion:window=16:stride=16", "RISE:samples=250")
OWN = {"birds_bagnet33": "BagNet", "birds_bcos_resnet18": "B-cos"}
TUNED = "_tuned"
MAGNITUDE = "sign=absolute"
Scores = Mapping[tuple[str, str], Score]


def percent(found: Mapping[str, float]) -> str:
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def cell(score: Score | None) -> str:
    if score is None:
        return ""
    low, high = score.ci95
    return f"{score.mean:.3f} ± {(high - low) / 2:.3f}"


def row(name: str, card: Card, scores: Scores) -> str:
    own = scores.get((name, OWN.get(name.removesuffix(TUNED), "")))
    cells = [cell(scores.get((name, method))) for method in METHODS] + [cell(own)]
    facts = [name, f"{card.parameters / 1e6:.2f} M", *(percent(card.accuracy[kind]) for kind in ("clean", "deleted"))]
    return "| " + " | ".join([*facts, *cells]) + " |"


def claims(scores: Scores, cards: Mapping[str, Card]) -> Iterable[str]:
    """Each claim with its numbers, of the deletion-tuned models."""
    tuned = [name for name in cards if name.endswith(TUNED)]

    def of(name: str, method: str = METHODS[1]) -> Score:
        return scores[f"birds_{name}{TUNED}", method]

    def against(first: Score, second: Score) -> str:
        found = paired_difference(first.counted, second.counted)
        return f"{first.mean:.3f} against {second.mean:.3f} (difference {found.mean:+.3f}, 95 % [{found.low:+.3f}, {found.high:+.3f}])"

    yield "Intrinsically explainable models lead:"
    for name, own in OWN.items():
        if f"{name}{TUNED}" in cards:
            best = max(
                (scores[other, m] for other in tuned for m in METHODS if (other, m) in scores and other != f"{name}{TUNED}"),
                key=lambda s: s.mean,
            )
            yield f"- {name}, own map: {of(name.removeprefix('birds_'), own).mean:.3f}; best of any method on any other model {best.mean:.3f} ({best.method})"
    yield "Raw beats absolute values (IG):"
    for name in tuned:
        yield f"- {name}: {against(scores[name, METHODS[1]], scores[name, MAGNITUDE])}"
    pairs = (
        ("Without BatchNorm is better (IG)", "fixup_resnet18", "resnet18"),
        ("Without bias, too, is better still (IG)", "x_resnet18", "fixup_resnet18"),
        ("VGG without BatchNorm is better (IG)", "vgg11", "vgg11_bn"),
        ("VGG without bias is better (IG)", "x_vgg11", "vgg11"),
        ("Deeper is worse (IG): 10 against 18 layers", "resnet10", "resnet18"),
        ("Deeper is worse (IG): 18 against 26 layers", "resnet18", "resnet26"),
    )
    for claim, first, second in pairs:
        if all(f"birds_{name}{TUNED}" in cards for name in (first, second)):
            yield f"{claim}: {against(of(first), of(second))}"
    accuracy = torch.tensor([[cards[name].accuracy["clean"]["mean"] for name in tuned]])
    quality = torch.tensor([[max(scores[name, m].mean for m in METHODS) for name in tuned]])
    yield f"Accuracy trades against quality: rank correlation over {len(tuned)} models {float(spearman(accuracy, quality)):+.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="birds that are scored")
    options = parser.parse_args()
    print("| model | parameters | clean % | deleted % | " + " | ".join(METHODS) + " | own map |")
    print("|---" * (5 + len(METHODS)) + "|")
    scores: dict[tuple[str, str], Score] = {}
    cards = {name: Card.read(path) for name, path in shipped().items() if name.startswith("birds_")}
    for name, card in cards.items():
        protocol, own = ("idsds" if card.deletion else "sds"), OWN.get(name.removesuffix(TUNED))
        model, methods = attrlib.load_model(name), [*METHODS, *([own] if own else [])]
        for chosen, asked in ((protocol, methods), (f"{protocol}:{MAGNITUDE}", METHODS[1:2])):
            result = attrlib.compare([chosen], model, asked, "birds", limit=options.limit)
            scores |= {(name, MAGNITUDE if MAGNITUDE in chosen else str(method)): score for (_, method), score in result.scores.items()}
        print(row(name, card, scores), flush=True)
    for line in claims(scores, cards):
        print(line)


if __name__ == "__main__":
    main()
