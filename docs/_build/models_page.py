"""The page of models: families, shipped models with their cards, and the architectures of this package."""

from pathlib import Path

from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.models.cards import Card, shipped
from attrlib.models.sources import EMBEDDED, architectures
from docs._build.markup import paper_link, table, text

HEAD = """---
description: The models that attrlib loads, and the shipped ones with their accuracy.
hide: [toc]
---

# Models

| Name | Model | Download |
|---|---|---|
| `{embedded}` | EfficientNet-Lite0 on ImageNet-1k, 224 px; the default. 66.4 % top-1 on the 250 Imagenette photos of the tests | none: embedded |
| `birds_*`, `imagenette_*` | [shipped models](#shipped-models): {shipped}, plain and deletion-tuned | none: shipped |
| `timm:NAME` | {timm:,} architectures of timm | weights, when first loaded |
| `torchvision:NAME` | {torchvision} architectures of torchvision | weights, when first loaded |
| `attrlib:NAME` | [architectures of this package](#architectures) | none: random weights, or yours |
| `idsds:NAME` | [{idsds} checkpoints published with IDSDS](#published-with-idsds) | with `attrlib download idsds:NAME` |
| `hf:ORG/NAME`, `timm:hf-hub:ORG/NAME` | [image classifiers of the Hugging Face hub](../guides/your-model.md#hugging-face-models-and-folders): transformers' (with `attrlib[hub]`), or timm's | config and weights, when first loaded |
| `clip:ORG/NAME?classes=A\\|B` | [CLIP and SigLIP with prompts as classes](../guides/your-model.md#clip-backbones-and-b-cos-networks) (with `attrlib[hub]`) | config and weights, when first loaded |
| `bcos:NAME` | {bcos} B-cos networks of the package `bcos` (with `attrlib[bcos]`) | weights, when first loaded |
| `my/folder` | a folder that transformers or timm saved | none |
| `mine.safetensors`, `.pth`, `.pt`, `.tar` | your weights, with `architecture=` or a model card beside the file | none |
| `attrlib.wrap_model(module, ...)` | any `nn.Module` that maps normalised images to logits | none |

Nothing but tensors is ever unpickled from a checkpoint. A model is bit-identical after every call. `attrlib models` lists the models that need
no download, `attrlib models 'timm:resnet*'` searches. How to bring a model: [Your model](../guides/your-model.md), and all
cases in [What you can bring](bring.md).

## Layers

Every method runs at `Input`, `Middle`, `Final`, and at every other layer that yields a map, by its module path (`layer3.1`). `Middle` and `Final`
are inferred: for a ResNet `layer2` and `layer4`, for a VGG the features after the third and before the last pooling. `model.layers` lists all layers
with their shapes. The [support matrix](matrix.md) says which methods are defined where.

## Shipped models

All are small, were trained by `attrlib.training.family`, and come with a card (`NAME.json`) that records data, recipe, seed and accuracy.
*Accuracy* is top-1 with its 95 % CI on the test split. *Deleted* is the accuracy on images of which one patch of the 4 x 4 grid is deleted, which a
deletion-tuned model has seen in training. IDSDS needs the deletion-tuned model; its plain twin answers whether fine-tuning changed the ranking.

"""
END = """
## Architectures

Architectures of this package. The small ones, for images of 128 px, differ in one respect each: depth, width, normalisation, bias, or layer type.

{architectures}

## Published with IDSDS

Checkpoints of the paper, fine-tuned on ImageNet images with deleted patches. `attrlib download idsds:NAME` fetches one into the cache folder and
records its digest; then `idsds:NAME` is a model like any other.

{published}
"""


def page() -> str:
    """Return the page."""
    counts = {source: len(names) for source, names in architectures().items()}
    head = HEAD.format(embedded=EMBEDDED, shipped=len(shipped()), **{k: counts[k] for k in ("timm", "torchvision", "idsds", "bcos")})
    rows = [(f"`attrlib:{name}`", text(a.summary), paper_link(a.paper)) for name, a in ARCHITECTURES.items()]
    published = ", ".join(f"`idsds:{name}`" for name in PUBLISHED)
    return head + shipped_tables() + END.format(architectures=table(("Name", "Architecture", "Paper"), rows), published=published)


def shipped_tables() -> str:
    """Return one table of shipped models for each of their training data."""
    cards = {name: (Card.read(path), path) for name, path in shipped().items()}
    parts = []
    for data in dict.fromkeys(name.partition("_")[0] for name in cards):
        rows = [row(name, *cards[name]) for name in cards if name.startswith(f"{data}_")]
        parts.append(f"### {data.capitalize()}\n\n" + table(("Model", "Architecture", "Tuned", "Parameters", "Accuracy", "Deleted"), rows))
    return "\n".join(parts)


def row(name: str, card: Card, path: Path) -> tuple[str, ...]:
    """Return the row of one model."""
    known = ARCHITECTURES.get(card.architecture.removeprefix("attrlib:"))
    return (
        f"`{name}`",
        text(known.summary) if known else f"`{card.architecture}`",
        "yes" if card.deletion else "no",
        f"{card.parameters / 1e6:.2f} M",
        accuracy(card, "clean"),
        accuracy(card, "deleted"),
    )


def accuracy(card: Card, kind: str) -> str:
    """Return an accuracy of a card with its interval, in percent."""
    value = card.accuracy.get(kind)
    if not value:
        return "–"
    low, high = (f"{100 * value[end]:.1f}" for end in ("low", "high"))
    return f'<span class="nowrap">{100 * value["mean"]:.1f} ({low}–{high})</span>'
