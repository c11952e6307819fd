"""Pieces of Markdown: text, tables, links to papers, and the parameters of methods and protocols."""

import inspect
import re
from collections.abc import Collection, Iterable, Sequence

from attrlib.registry import Paper, Param

LONG = 80
"""Characters of LaTeX beside a picture, at most."""
_SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example|Examples):\s*$", re.MULTILINE)
_FOR_AUTHORS = re.compile(r"(?<=[.!]\s)A subclass [^.]*\.|\AA subclass [^.]*\.")


def text(plain: str) -> str:
    """Escape what Markdown would read as markup, outside of `code`."""
    parts = plain.split("`")
    return "`".join(part if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(plain: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        plain = plain.replace(character, entity)
    return re.sub(r"([\\*_\[\]$])", r"\\\1", plain)


def cell(plain: str) -> str:
    """Return text for a cell of a table: on one line."""
    return " ".join(plain.replace("\n", " ").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Cells are Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values without a head. Empty values are left out."""
    return '<div class="facts" markdown>\n\n' + table(("", ""), [(f"**{name}**", value) for name, value in rows if value]) + "\n</div>\n"


def paper_link(paper: Paper) -> str:
    """Return a citation that links to the paper."""
    return f"{text(paper.authors)}, [{text(paper.title)}]({paper.url})"


def body(cls: type, root: type, without: Collection[str] = ()) -> str:
    """Return what docstrings of a class and of its bases say after their first line, without Google sections.

    Args:
        cls: The class.
        root: The common base class, whose docstring is left out.
        without: Names of further base classes to leave out.
    """
    parts = []
    for each in cls.__mro__:
        if each is root or not issubclass(each, root) or each.__name__ in without:
            continue
        whole = inspect.cleandoc(each.__dict__.get("__doc__") or "")
        _, _, rest = whole.partition("\n\n")
        rest = _SECTIONS.split(rest)[0].strip()
        if rest and not each.__doc__.startswith(f"{each.__name__}("):  # type: ignore[union-attr]
            parts.append(_FOR_AUTHORS.sub("", " ".join(rest.split())).strip())
    return "\n\n".join(text(part) for part in parts if part)


def params_table(params: Sequence[Param]) -> str:
    """Return the table of parameters, or a sentence if there are none."""
    if not params:
        return "No parameters.\n"
    return table(("Parameter", "Values", "Default", "Meaning"), [_row(p) for p in params])


def _row(param: Param) -> tuple[str, str, str, str]:
    return f"`{param.name}`", values(param), default(param), text(param.help) + "."


def values(param: Param) -> str:
    """Return the allowed values of a parameter."""
    if param.choices:
        return ", ".join(f"`{choice}`" for choice in param.choices)
    return text(param.expects().removesuffix(f", or {param.none}"))


def default(param: Param) -> str:
    """Return the default of a parameter."""
    return text(param.auto) if param.default is None else f"`{param.format(param.default)}`"


def formula(latex: str) -> str:
    """Return a displayed formula. A long one takes a line for each of its parts, which `, \\qquad` separates."""
    lines = latex.split(r", \qquad ") if len(latex) > LONG else [latex]
    return "".join(f"\n$$\n{line}\n$$\n" for line in lines)
