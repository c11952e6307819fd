"""The page of methods: formula, paper, cost, parameters, and a picture of each."""

import dataclasses
import json
from functools import cache

import attrlib
from attrlib.methods import METHODS, Method, MethodInfo, Passes, list_presets
from attrlib.models import Layer
from docs._build.markup import body, facts_table, formula, paper_link, params_table, table, text
from docs._build.registered import MAPS, fact, methods, slug

FAMILIES = {
    "gradient": (
        "Gradient",
        "From the gradient of the target logit, or from a modified backward pass. Defined at every layer that yields a map.",
    ),
    "CAM": (
        "CAM",
        "A weighted sum of the layer's channels, cut off at zero. The default layer is `Final`; other layers work too. Directly before "
        "global pooling and a linear head, as in the pictures below, Grad-CAM, XGrad-CAM, HiRes-CAM and Grad-CAM++ differ little or not at all.",
    ),
    "perturbation": (
        "Perturbation",
        "From the outputs for images of which parts are removed. Only Extremal perturbation needs gradients.",
    ),
    "transformer": (
        "Transformer",
        "From the attention matrices of a transformer whose tokens can be followed: ViT, DeiT, DINO, BEiT, EVA, SigLIP, CaiT, Swin. `read` is "
        "the token that the head reads, or the mean over all tokens that it pools. Attention within windows counts as zero outside of them, and "
        "merged patches as their mean.",
    ),
    "intrinsic": ("Intrinsic", "The explanations that inherently interpretable networks provide themselves."),
    "sanity": ("Sanity baselines", "Maps that do not depend on the model. A useful method must outperform them."),
}
GENERAL = ("ByChannel", "OfRules", "OfRelevance", "WithGammas")
"""Base classes whose docstrings say nothing of a single method."""
HEAD = """---
description: Every attribution method of attrlib with its formula, paper, cost, parameters and a picture.
---

# Methods

attrlib has {count} attribution methods in {families} families. Each takes a classifier, images and a target class, and returns one
signed map for each image. A method is named in text form, with a layer and parameters where they differ from the defaults:
`IG`, `Grad-CAM@Middle`, `IG@Final:steps=20:baseline=black`. `attrlib methods` lists them all.

=== "Python"

    ```python
    a = attrlib.explain(model, "cat.jpg", "IG", layer="Final", steps=20)
    ```

=== "Command line"

    ```bash
    attrlib explain --image cat.jpg --methods IG@Final:steps=20 --out explained
    ```

On which architectures and layers a method is defined: [support matrix](matrix.md). How good it is: [protocols](protocols.md) and
[findings](../findings.md). A method of your own: [custom methods](../guides/custom-method.md).

The pictures show the map for the predicted class of `birds:test/7` at default parameters, on `birds_resnet18`, or on the model that the
caption names. <span class="orange">Orange</span> is evidence for the class, <span class="blue">blue</span> against it; maps without negative
values are orange alone.

## Overview

{gallery}

## Symbols and cost

$x$
:   Input of the part of the network that is explained: the normalised image at `Input`, the layer's output elsewhere. $x_c(p)$ is its channel $c$ at position $p$.

$f(x)$, $P(x)$
:   Logit and softmax probability of the target class. With another [target](targets.md), $f$ is that target.

$S(p)$
:   The map. The method's channels are summed unless the parameter `channels` says otherwise.

$A_c$, $g_c(p) = \\partial f / \\partial A_c(p)$
:   Activations of channel $c$ at the layer, and their gradient.

$b$
:   Baseline.

$\\odot$, $\\operatorname{{up}}$
:   Elementwise product; bilinear resizing to the size of the image.

Cost is counted in passes through the network for the map of one image at default parameters, on the 224 px EfficientNet-Lite0. A *gradient
pass* is a forward pass followed by a backward pass. Methods that are asked for together share what they have in common.

"""


def page() -> str:
    """Return the page."""
    infos = methods()
    families = list(dict.fromkeys(info.family for info in infos))
    parts = [HEAD.format(count=len(infos), families=len(families), gallery=gallery(infos))]
    for family in families:
        title, about = FAMILIES.get(family, (family, ""))
        parts.append(f"## {title}\n\n{about}\n")
        parts += [section(info) for info in infos if info.family == family]
    return "\n".join([*parts, presets()])


def presets() -> str:
    """Return the section of presets."""
    parts = ["## Presets\n\nThe methods of published studies with their settings. A preset stands in any list of methods: `--methods idsds`.\n"]
    for preset in list_presets():
        rows = [(text(name), f"`{spec}`") for name, spec in preset.members]
        listed = table(("Name in the study", "Method"), rows).replace("\n", "\n    ")
        head = f"### {text(preset.title)} {{ #preset-{preset.name} }}\n\n`{preset.name}`: {text(preset.summary)}. {paper_link(preset.paper)}.\n"
        count = f"{len(rows)} method{'s' if len(rows) > 1 else ''}"
        parts.append(f'{head}\n??? note "{count}"\n\n    {listed}\n')
    return "\n".join(parts)


def gallery(infos: list[MethodInfo]) -> str:
    """Return the pictures of all methods, each a link to its section."""
    tiles = ['<div class="maps">', _tile("maps/bird.png", "The bird", "")]
    tiles += [_tile(f"maps/{slug(i.name)}.png", i.name, f"#{slug(i.name)}") for i in infos]
    return "\n".join([*tiles, "</div>"])


def _tile(image: str, name: str, link: str) -> str:
    # Raw HTML is not rewritten, and the page is a folder below the pictures.
    picture = f'<img src="../{image}" alt="{name}" width="160" height="160" loading="lazy"><span>{name}</span>'
    return f'<a href="{link}">{picture}</a>' if link else f"<div>{picture}</div>"


def section(info: MethodInfo) -> str:
    """Return the section of one method."""
    extra, cls = fact("methods", info.name), METHODS[info.name]
    model = drawn_on().get(info.name, "")
    caption = f"{info.name} on `{model}`" if model else info.name
    needs = "; ".join(text(need) for need in info.needs) or "every model"
    rows = [
        ("Paper", paper_link(info.paper)),
        ("Defined for", f"{needs} ([matrix](matrix.md#{slug(info.name)}))"),
        ("Default layer", f"`{info.default_layer}`"),
        ("Values", "positive and negative" if info.signed else "not negative"),
        ("Target class", "explained" if info.class_specific else "ignored: the map is the same for every class"),
        ("Random numbers", randomness(cls, info)),
        ("Cost", cost(cls, info)),
        ("Tested against", text(extra["oracle"])),
        ("Source", f"`{cls.__module__}`"),
    ]
    return "\n".join(
        [
            f"### {text(info.name)} {{ #{slug(info.name)} }}\n",
            f'<figure class="map" markdown>\n![{caption}](maps/{slug(info.name)}.png){{ width="160" height="160" }}\n'
            + (f"<figcaption>{model}, {info.default_layer}</figcaption>\n" if model else "")
            + "</figure>\n",
            f"{text(extra['short'])}.\n",
            formula(extra["formula"]),
            body(cls, Method, GENERAL) + "\n",
            facts_table(rows),
            params_table(info.params),
        ]
    )


def randomness(cls: type[Method], info: MethodInfo) -> str:
    """Return whether a map depends on the seed."""
    if isinstance(cls.__dict__.get("seeded"), property):
        return "from the seed, with `baseline=uniform`" if any(p.name == "baseline" for p in info.params) else "depends on the parameters"
    return "from the seed" if info.seeded else "none"


def cost(cls: type[Method], info: MethodInfo) -> str:
    """Return the passes that a map takes, and the parameters that change their number."""
    layer = probe_layer(info.default_layer)
    base = cls().passes(layer)
    drivers = []
    for p in info.params:
        for value in p.choices or ((2 * p.default if p.default else 32,) if p.kind is int else ()):
            try:
                changed = dataclasses.replace(cls(), **{p.name: value}).passes(layer)
            except attrlib.AttrlibError:
                continue
            if changed != base:
                drivers.append(f"`{p.name}`")
                break
    depends = f"; depends on {', '.join(drivers)}" if drivers else ""
    return words(base) + depends


def words(passes: Passes) -> str:
    """Return passes in words."""
    parts = [(passes.gradient, "gradient pass"), (passes.forward, "forward pass")]
    said = [f"{count:,} {name}{'es' if count != 1 else ''}" for count, name in parts if count]
    if passes.before > 1:
        said.append(f"{passes.before} forward passes up to the layer")
    return ", ".join(said) or "no pass downstream of the layer"


@cache
def probe_layer(name: str) -> Layer:
    """Return the layer at which cost is counted."""
    return _probe_model().layer(name)


@cache
def _probe_model() -> attrlib.Classifier:
    return attrlib.load_model("efficientnet_lite0", "cpu")


@cache
def drawn_on() -> dict[str, str]:
    """Return the model on which each method's picture was drawn."""
    index = MAPS / "maps.json"
    return json.loads(index.read_text("utf-8")) if index.is_file() else {}
