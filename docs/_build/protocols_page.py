"""The page of protocols: question, formula, direction, chance, cost, oracle, and what each cannot tell."""

import math

from attrlib.protocols import PROTOCOLS, Protocol, ProtocolInfo
from attrlib.protocols.base import OFFERED
from docs._build.markup import body, facts_table, formula, paper_link, params_table, table, text
from docs._build.registered import fact, protocols

HEAD = """---
description: Every protocol of attrlib with its question, formula, direction, chance level, cost and limits.
---

# Protocols

A protocol scores the maps of a method on a model and a data set. attrlib has {count} of them. A protocol is named in text form, with the
parameters that differ from the defaults: `idsds`, `gridpg:grid=3:confidence=0.9`, `ids:order=descending`. `attrlib protocols` lists them all.

=== "Python"

    ```python
    s = attrlib.score("sds", model, "IG", data, limit=200, seed=0)
    s.mean, s.ci95, s.values, s.undefined
    ```

=== "Command line"

    ```bash
    attrlib score --model birds_resnet18_tuned --protocol idsds --methods IG,Grad-CAM --data birds --limit 200
    ```

No protocol decides alone whether a map is right. Each answers one question, and they often disagree:
[findings](../findings.md) shows by how much. How to choose one: [Score methods](../guides/score.md).

{overview}

## Symbols

$f(x)$, $P(x)$
:   Logit and softmax probability of the target class.

$a(p)$, $a$
:   The map at the size of the image; low-resolution maps are resized bilinearly, maps of tokens keep their squares.

$x_{{\\setminus i}}$
:   The image without patch (or part) $i$.

$\\rho_i$
:   Spearman's rank correlation over $i$, with average ranks for ties.

$m$
:   The pixels of the object.

## Baselines

What replaces deleted pixels, in normalised space. `linear`, `border` and `inpainting` are imputed from the pixels that remain, for each mask anew.

`zeros`
:   The mean colour of the training data.

`random`
:   Uniform noise in $[-1, 1]$, drawn from the seed for each image.

`blur`
:   The image blurred with a 51 × 51 Gaussian of sigma 58.

`mean`
:   The mean colour of the image.

`linear`
:   ROAD's noisy linear imputation ([Rong et al. 2022](https://arxiv.org/abs/2202.00449)): each pixel is the weighted mean of its neighbours, with noise of
    standard deviation 0.01.

`border`
:   The mean colour of the pixels that touch the deleted region.

`inpainting`
:   Biharmonic inpainting by scikit-image.

"""


def page() -> str:
    """Return the page."""
    infos = protocols()
    return HEAD.format(count=len(infos), overview=overview(infos)) + "\n".join(map(section, infos))


def overview(infos: list[ProtocolInfo]) -> str:
    """Return the table of all protocols."""
    rows = [
        (f"[`{i.name}`](#{i.name})", text(fact("protocols", i.name)["asks"]), direction(PROTOCOLS[i.name]()).split(",")[0], chance(i))
        for i in infos
    ]
    return table(("Protocol", "Asks", "Better", "Chance"), rows)


def section(info: ProtocolInfo) -> str:
    """Return the section of one protocol."""
    extra, cls = fact("protocols", info.name), PROTOCOLS[info.name]
    default = cls()
    low, high = (number(bound) for bound in info.bounds)
    rows = [
        ("Paper", paper_link(info.paper)),
        ("Better", f"{direction(default)}; from {low} to {high}"),
        ("Chance level", chance(info)),
        ("Reading", text(info.reading)),
        ("Scores", "grids of images" if info.items == "grids" else "single images"),
        ("Needs", "; ".join(text(OFFERED.get(need, need)) for need in info.needs) or "any model, any labelled data"),
        ("Random numbers", "from the seed" if default.seeded else seeded_if(cls)),
        ("Cost", cost(default)),
        ("Tested against", f"{extra['oracle']} `{extra['tests']}`"),
    ]
    cannot = "\n".join(f"- {line}" for line in extra["cannot"])
    return "\n".join(
        [
            f"## {text(info.title)} {{ #{info.name} }}\n",
            f"`{info.name}`{{ .name }} {text(extra['asks'])}\n",
            formula(extra["formula"]),
            body(cls, Protocol) + "\n",
            facts_table(rows),
            f"**What it cannot tell**\n\n{cannot}\n",
            params_table(info.params),
        ]
    )


def direction(default: Protocol) -> str:
    """Return which values are better, and the parameters on which that depends."""
    word = "higher" if default.higher_is_better else "lower"
    return word + (", depends on `mode` and `order`" if "order" in vars(default) and "mode" in vars(default) else "")


def chance(info: ProtocolInfo) -> str:
    """Return the score of a map without information."""
    extra = fact("protocols", info.name)
    if "chance" in extra:
        return str(extra["chance"])
    if info.chance is None:
        return "not known"
    return f"{number(info.chance)}" + (" ($1/n^2$)" if info.items == "grids" else "")


def number(value: float) -> str:
    """Return a number for a page."""
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else f"{value:g}".replace("-", "−")


def seeded_if(cls: type[Protocol]) -> str:
    """Return whether a parameter makes a protocol depend on the seed."""
    return "from the seed, with `baseline=random` or `linear`" if isinstance(getattr(cls, "seeded", False), property) else "none"


def cost(default: Protocol) -> str:
    """Return what one item costs."""
    own, shared = default.cost, sum(m.forwards() for m in default.measurements)
    inputs = f"{own.inputs:g} map{'s' if own.inputs != 1 else ''}"
    size = f" at {own.area:g} times the area of the input" if own.area != 1 else ""
    targets = f" for {own.targets} classes" if own.targets > 1 else ""
    more = f" and {own.forwards:g} forward passes" if own.forwards else ""
    once = f"; {shared:g} forward passes once for all methods" if shared else ""
    return f"{inputs}{targets}{size}{more} for each item and method{once}"
