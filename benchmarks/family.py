"""What holds of the paper's claims on the shipped models: `python -m benchmarks.family > table.md`.

For every model on birds, its accuracies from its card and IDSDS (SDS for plain models) of a few methods on 500 birds, as a Markdown
table, and below it the claims of Hesse et al. (NeurIPS 2024), each with the numbers that speak for or against it. What was
computed before comes from the store.
"""

import argparse
from collections.abc import Mapping

import attrlib
from attrlib import Score
from attrlib.models import Card, shipped

METHODS = ("IxG", "IG", "SmoothGrad", "Grad-CAM", "Layer-CAM", "RISE:samples=500")
OWN = {"birds_bagnet33": "BagNet", "birds_bcos_resnet18": "B-cos"}
TUNED = "_tuned"


def percent(found: Mapping[str, float]) -> str:
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def cell(score: Score | None) -> str:
    if score is None:
        return "–"
    low, high = score.ci95
    return f"{score.mean:.3f} ± {(high - low) / 2:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="birds that are scored")
    options = parser.parse_args()
    print("| model | parameters | clean % | deleted % |", " | ".join(METHODS), "| own map |")
    print("|---" * (5 + len(METHODS)) + "|")
    for name, path in shipped().items():
        if not name.startswith("birds_"):
            continue
        card, model = Card.read(path), attrlib.load_model(name)
        protocol = "idsds" if card.deletion else "sds"
        own = OWN.get(name.removesuffix(TUNED))
        result = attrlib.compare([protocol], model, [*METHODS, *([own] if own else [])], "birds", limit=options.limit)
        scores = {str(method): score for (_, method), score in result.scores.items()}
        accuracies = " | ".join(percent(card.accuracy[kind]) for kind in ("clean", "deleted"))
        cells = " | ".join(cell(scores.get(method)) for method in (*METHODS, own or ""))
        print(f"| {name} | {card.parameters / 1e6:.2f} M | {accuracies} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
