"""Print accuracy and IDSDS of the shipped models, as the Markdown table of the README: `python -m benchmarks.family`.

Accuracies of the plain and the deletion-tuned model are taken from the cards; IDSDS is computed on the tuned model. To test the claims of
the papers on these models, use `python -m attrlib study`. Cached results are read from the store.
"""

import argparse
from collections.abc import Sequence

import attrlib
from attrlib import Score
from attrlib.models import Card, shipped

METHODS = ("IxG", "IG:steps=16", "SmoothGrad:samples=8", "Grad-CAM", "Occlusion:window=16:stride=16", "RISE:samples=100")
INTRINSIC = {"bagnet": "BagNet", "bcos": "B-cos"}


def percents(cards: Sequence[Card], kind: str) -> str:
    """Return an accuracy of the plain and the tuned model, in percent."""
    return " / ".join(f"{100 * card.accuracy[kind]['mean']:.1f}" for card in cards)


def cell(score: Score | None) -> str:
    """Return the mean with half the width of its 95 % CI, or an empty text without a score."""
    if score is None:
        return ""
    low, high = score.ci95
    return f"{score.mean:.2f} ± {(high - low) / 2:.2f}"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="number of birds to score")
    parser.add_argument("--models", nargs="*", help="deletion-tuned models; by default all models for birds")
    options = parser.parse_args()
    cards = {name: Card.read(path) for name, path in shipped().items()}
    names = options.models or [name for name, card in cards.items() if card.data.startswith("birds") and card.deletion]
    print("| model | parameters | clean % | deleted % | " + " | ".join(METHODS) + " | intrinsic map |")
    print("|---" * (5 + len(METHODS)) + "|")
    for name in names:
        card = cards[name]
        plain = str(card.pair)
        intrinsic = next((method for kind, method in INTRINSIC.items() if kind in card.architecture), None)
        methods = [*METHODS, *([intrinsic] if intrinsic else [])]
        result = attrlib.compare(["idsds"], attrlib.load_model(name), methods, "birds", limit=options.limit)
        scores = {str(method): score for (_, method), score in result.scores.items()}
        accuracy = [percents((cards[plain], card), kind) for kind in ("clean", "deleted")]
        cells = [cell(scores.get(method)) for method in (*METHODS, intrinsic or "")]
        print("| " + " | ".join([plain, f"{card.parameters / 1e6:.2f} M", *accuracy, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
