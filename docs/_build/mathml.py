"""Convert the LaTeX that `pymdownx.arithmatex` marks into MathML, at build time: no script and no network is needed to read a page."""

import html
import re

from latex2mathml.converter import convert

_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def to_mathml(page: str) -> str:
    """Replace every formula of an HTML page."""
    return _MARKED.sub(_converted, page)


def _spaced(math: str) -> str:
    """Set names of functions as identifiers, and bars without space: as operators they get space on both sides."""
    named = re.sub(r"<mo>([A-Za-z]{2}[^<]*)</mo>", r"<mi>\1</mi>", math)
    return re.sub(r"<mo(?![^>]*fence)[^>]*>(\||&#x0007C;|&#x02016;|&#x02225;)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', named)


def _converted(match: re.Match[str]) -> str:
    latex = " ".join(html.unescape(match[3]).split())
    displayed = match[2] == "["
    math = _spaced(convert(latex, display="block" if displayed else "inline"))
    return f'<div class="formula">{math}</div>' if displayed else math
