"""The page of the support matrix, from the JSON file that `python -m docs._build.matrix` writes."""

import html
import json
from typing import Any

from docs._build.markup import table, text
from docs._build.registered import MATRIX, methods, slug

HEAD = """---
description: Which attribution method is defined on which architecture, at which layer, and why not.
hide: [toc]
---

# Support matrix

On which architectures is a method defined, and at which layers? Every cell is a finding of [`attrlib.doctor`](api.md), which runs each method at
`Input`, `Middle` and `Final` of a small instance. Run `attrlib doctor --model NAME` to get the same for your model, with seconds and peak memory.

<span class="cell all">●</span> defined at `Input`, `Middle` and `Final` &emsp;
<span class="cell some">Inp Mid Fin</span> defined at these layers only &emsp;
<span class="cell none">–</span> not defined &emsp;
<span class="cell some">*</span> defined, but at some layer the map is constant or zero

The numbers lead to the [reasons](#reasons), which a tooltip shows too.

"""
SHORT = {"Input": "Inp", "Middle": "Mid", "Final": "Fin"}


def page() -> str:
    """Return the page."""
    matrix: dict[str, Any] = json.loads(MATRIX.read_text("utf-8"))
    columns, reasons = list(matrix["architectures"]), Reasons()
    rows, family = [], ""
    for info in methods():
        if info.family != family:
            family = info.family
            rows.append(f'<tr class="family"><th colspan="{len(columns) + 1}">{family if family == "CAM" else family.capitalize()}</th></tr>')
        cells = matrix["cells"].get(info.name, {})
        body = "".join(cell(cells[c], matrix["layers"], reasons) if c in cells else "<td>?</td>" for c in columns)
        name = f'<a href="../methods/#{slug(info.name)}">{html.escape(info.name)}</a>'
        rows.append(f'<tr id="{slug(info.name)}"><th scope="row">{name}</th>{body}</tr>')
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
    grid = (
        f'<div class="matrix"><table class="support"><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>\n\n"
    )
    return HEAD + grid + "## Reasons\n\n" + reasons.listed() + "\n## Instances\n\n" + instances(matrix)


class Reasons:
    """Numbered texts, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """Return the number of a text."""
        return self._numbers.setdefault(reason, len(self._numbers) + 1)

    def listed(self) -> str:
        """Return the texts as a list with anchors."""
        items = (f'<li id="reason-{k}">{html.escape(reason)}</li>' for reason, k in self._numbers.items())
        return '<ol class="reasons">\n' + "\n".join(items) + "\n</ol>\n"


def cell(found: dict[str, Any], layers: list[str], reasons: Reasons) -> str:
    """Return one cell: where the method is defined, the numbers of the reasons, and a tooltip."""
    valid, why, notes = found["valid"], found.get("reasons", {}), found.get("notes", {})
    texts = {layer: general(why.get(layer) or notes.get(layer, ""), layer) for layer in layers}
    numbers = sorted({reasons.number(t) for t in texts.values() if t})
    kind = "all" if len(valid) == len(layers) else "some" if valid else "none"
    mark = {"all": "●", "none": "–"}.get(kind) or " ".join(SHORT.get(layer, layer) for layer in valid)
    mark += "*" if notes and set(notes) & set(valid) else ""
    links = ",".join(f'<a href="#reason-{n}">{n}</a>' for n in numbers)
    tip = "\n".join(f"{', '.join(k for k in layers if texts[k] == t)}: {t}" for t in dict.fromkeys(texts.values()) if t)
    title = f' title="{html.escape(tip)}"' if tip else ""
    return f'<td class="{kind}"{title}>{mark}{f"<sup>{links}</sup>" if links else ""}</td>'


def general(reason: str, layer: str) -> str:
    """Return a reason without the layer's name, so that the layers of a cell share it."""
    return reason.replace(f"downstream of {layer}", "downstream of the layer").replace(f"@{layer}", "@LAYER")


def instances(matrix: dict[str, Any]) -> str:
    """Return the table of the probed instances."""
    rows = [
        (text(label), f"`{a['model']}`", "random" if a["random_weights"] else "trained") for label, a in matrix["architectures"].items()
    ]
    made = "\n`python -m docs._build.matrix --out docs/reference/matrix.json` makes the matrix again.\n"
    return table(("Architecture", "Probed instance", "Weights"), rows) + made
