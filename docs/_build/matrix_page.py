"""The page of the support matrix, from the JSON file that `attrlib doctor --matrix` writes."""

import html

from attrlib.diagnosis import Cell, Matrix, read_matrix
from attrlib.models import NAMED
from attrlib.models.names import RANDOM
from docs._build.markup import table, text
from docs._build.registered import MATRIX, methods, slug

HEAD = """---
description: Which attribution method is defined on which architecture, at which layer, and why not.
hide: [toc]
---

# Support matrix

Which methods can you use on your backbone, and at which layers? Every cell is a finding of [`attrlib.doctor`](api.md), which runs each method at
`Input`, `Middle` and `Final` of a small member of the family, with random weights if none are shipped. `attrlib doctor --model NAME` says the same
of your model, with seconds and peak memory, and `attrlib doctor --matrix table.md --models NAME,NAME` writes such a table for several.

<span class="cell all">●</span> defined at `Input`, `Middle` and `Final` &emsp;
<span class="cell some">Inp Mid Fin</span> defined at these layers only &emsp;
<span class="cell none">–</span> not defined &emsp;
<span class="cell some">*</span> defined, but at some layer the map is constant, zero or made of rounding errors

The numbers lead to the [reasons](#reasons), which a tooltip shows too.

"""
SHORT = {"Input": "Inp", "Middle": "Mid", "Final": "Fin"}


def page() -> str:
    """Return the page."""
    matrix = read_matrix(MATRIX)
    columns, reasons = list(matrix.models), Reasons()
    rows, family = [], ""
    for info in methods():
        if info.family != family:
            family = info.family
            rows.append(f'<tr class="family"><th colspan="{len(columns) + 1}">{family if family == "CAM" else family.capitalize()}</th></tr>')
        cells = matrix.cells.get(info.name, {})
        body = "".join(cell(cells[c], reasons) if c in cells else "<td>?</td>" for c in columns)
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


def cell(found: Cell, reasons: Reasons) -> str:
    """Return one cell: where the method is defined, the numbers of the reasons, and a tooltip."""
    texts = found.footnotes()
    numbers = sorted({reasons.number(t) for t in texts.values()})
    kind = "all" if len(found.valid) == len(NAMED) else "some" if found.valid else "none"
    mark = {"all": "●", "none": "–"}.get(kind) or " ".join(SHORT[layer] for layer in found.valid)
    mark += "*" if set(found.notes) & set(found.valid) else ""
    links = ",".join(f'<a href="#reason-{n}">{n}</a>' for n in numbers)
    tip = "\n".join(f"{', '.join(k for k in texts if texts[k] == t)}: {t}" for t in dict.fromkeys(texts.values()))
    title = f' title="{html.escape(tip)}"' if tip else ""
    return f'<td class="{kind}"{title}>{mark}{f"<sup>{links}</sup>" if links else ""}</td>'


def instances(matrix: Matrix) -> str:
    """Return the table of the probed instances."""
    rows = [(text(title), f"`{model}`", "random" if RANDOM in model else "trained") for title, model in matrix.models.items()]
    made = "\n`attrlib doctor --matrix docs/reference/matrix.json` makes the matrix again.\n"
    return table(("Family", "Probed instance", "Weights"), rows) + made
