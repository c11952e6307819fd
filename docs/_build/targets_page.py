"""The page of targets: formula, paper, what each needs, and its parameters."""

from attrlib.methods import list_methods
from attrlib.targets import TARGETS, Target, TargetInfo, list_targets
from docs._build.markup import body, facts_table, formula, paper_link, params_table, table, text
from docs._build.registered import fact

HEAD = """---
description: Every target of attrlib, what a map can explain of a model's outputs, with its formula and parameters.
---

# Targets

A target is the number that a map explains. By default it is the logit of the class; attrlib has {count} of them. A target is named in text form,
with the parameters that differ from the defaults, at the end of a method: `Grad-CAM:target=contrast:k=3`. `attrlib targets` lists them all.

=== "Python"

    ```python
    a = attrlib.explain(model, "cat.jpg", "Grad-CAM", target="tabby", method_target="contrast:k=3")
    ```

=== "Command line"

    ```bash
    attrlib explain --image cat.jpg --methods Grad-CAM,IG --target tabby --method-target contrast:k=3 --out explained
    ```

Which one answers your question: [What is explained](../guides/explain.md#what-is-explained-targets).

{overview}

## Symbols

$t(x)$
:   The target, with which every method replaces $f$ in its [formula](methods.md).

$f_k(x)$, $P_k(x)$, $y$
:   Logit and probability of class $k$, and the explained class.

$S_k(y)$, $s$
:   The $k$ classes most similar to $y$, and `strength`.

$z$, $C$
:   The other class, and the set of classes.

$A_c(p)$, $\\Omega$
:   Activation of channel $c$ at position $p$ of the named layer, and all its positions.

$h(x)$, $r$
:   Features that the model's head reads, and those of the other picture, of its patch, or of the text.

"""


def page() -> str:
    """Return the page."""
    infos = list_targets()
    return HEAD.format(count=len(infos), overview=overview(infos)) + "\n".join(map(section, infos))


def overview(infos: list[TargetInfo]) -> str:
    """Return the table of all targets."""
    rows = [(f"[`{i.name}`](#{i.name})", text(i.summary), "yes" if i.about_class else "no", "yes" if i.linear else "no") for i in infos]
    return table(("Target", "Explains", "Scored by protocols", "Linear"), rows)


def section(info: TargetInfo) -> str:
    """Return the section of one target."""
    extra, cls = fact("targets", info.name), TARGETS[info.name]
    refusing = ", ".join(f"`{method.name}`" for method in list_methods() if method.linear)
    rows = [
        ("Paper", paper_link(info.paper) if info.paper else ""),
        ("Needs", "; ".join(text(need) for need in info.needs) or "any model"),
        ("Protocols", "judge its maps by the output of the class that they define" if info.about_class else "refuse its maps"),
        ("Methods", "all" if info.linear else f"all but those that propagate logits: {refusing}"),
        ("Tested against", text(extra["oracle"])),
        ("Source", f"`{cls.__module__}`"),
    ]
    return "\n".join(
        [
            f"## {text(info.title)} {{ #{info.name} }}\n",
            f"`{info.name}`{{ .name }} {text(info.summary)}\n",
            formula(extra["formula"]),
            body(cls, Target) + "\n",
            facts_table(rows),
            params_table(info.params),
        ]
    )
