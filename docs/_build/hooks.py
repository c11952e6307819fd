"""Hooks of MkDocs: add the generated pages of the reference, and convert formulas."""

import sys
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from docs._build import api_page, cli_page, data_page, mathml, matrix_page, methods_page, models_page, protocols_page, rules_page, targets_page  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "api": api_page.page,
    "cli": cli_page.page,
    "methods": methods_page.page,
    "targets": targets_page.page,
    "protocols": protocols_page.page,
    "models": models_page.page,
    "data": data_page.page,
    "matrix": matrix_page.page,
    "rules": rules_page.page,
}
"""The generated pages of `reference/`, by name."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, make in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def on_page_content(page_html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the formulas of a page."""
    return mathml.to_mathml(page_html)
