"""Reports as one HTML file, which opens in any browser without Python or a network connection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go
import plotly.io
import plotly.offline

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2128; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #d8dde3; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
thead th { border-bottom: 2px solid #1c2128 }
pre { background: #f3f5f7; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
.note { color: #57606a }
"""


@dataclass(frozen=True)
class Section:
    """One section of a report: a title, a sentence, a table by column, and figures."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[go.Figure] = ()


def html_report(title: str, summary: str, sections: Sequence[Section], reproduce: Mapping[str, str]) -> bytes:
    """Build the report as an HTML file that includes Plotly's script.

    Args:
        title: Title of the report.
        summary: Text below the title.
        sections: The sections.
        reproduce: Texts to copy, such as a command, by their label.
    """
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style><script>{plotly.offline.get_plotlyjs()}</script></head><body><main>",
        f"<h1>{escape(title)}</h1><p>{escape(summary)}</p>",
        *(_section(section) for section in sections),
        "<h2>Reproduce this</h2>",
        *(f"<p class=note>{escape(label)}</p><pre>{escape(text)}</pre>" for label, text in reproduce.items()),
        "</main></body></html>",
    ]
    return "\n".join(parts).encode()


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p class=note>{escape(section.text)}</p>"] if section.text else []
    if section.rows:
        head = "".join(f"<th scope=col>{escape(name)}</th>" for name in section.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    parts += [_drawn(figure) for figure in section.figures]
    return "\n".join([*parts, "</section>"])


def _drawn(figure: go.Figure) -> str:
    light = go.Figure(figure).update_layout(template="plotly_white", font_family="system-ui, sans-serif")
    return plotly.io.to_html(light, include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True})
