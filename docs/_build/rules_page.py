"""The page of rules: how each method that changes the backward pass treats each kind of operation."""

from attrlib.methods import METHODS
from attrlib.methods.operation_rules import OPERATIONS, OfRules
from docs._build.markup import table, text
from docs._build.registered import slug

HEAD = """---
description: How LRP, AttnLRP, CP-LRP, LibraGrad, DeepLIFT and the guided methods treat every kind of operation of a network.
---

# Rules of propagation

{names} pass a score back through the network with a changed gradient. What they do at an operation depends on its kind, whether it is a
module, a function, in place, fused or written out. A method refuses a network that has an operation without a rule downstream of the layer, and
names the operation before anything is computed; `attrlib doctor` shows the reasons.

In LRP, AttnLRP, CP-LRP and LibraGrad relevance travels as relevance over activation, $g = R / a$, so that at linear operations the ordinary gradient
shares relevance in proportion to the contributions, and the map is input times $g$. In DeepLIFT, the multipliers of differences to a baseline
travel in the same way.

"""


def page() -> str:
    """Return the page."""
    described = {name: cls.described() for name, cls in METHODS.items() if issubclass(cls, OfRules)}
    links = [f"[{text(name)}](methods.md#{slug(name)})" for name in described]
    rows = []
    for key, operation in OPERATIONS.items():
        by_rule: dict[str, list[str]] = {}
        for name, rules in described.items():
            by_rule.setdefault(rules[key] or "refused", []).append(name)
        said = "<br>".join(f"**{text(', '.join(names))}**: {text(rule)}" for rule, names in by_rule.items())
        rows.append((text(operation.title), text(operation.found), said))
    return HEAD.format(names=", ".join(links[:-1]) + " and " + links[-1]) + table(("Operation", "Found in", "Rule"), rows)
