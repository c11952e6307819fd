"""The documentation's reference is complete, and the site builds without a warning."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attrlib
from attrlib.diagnosis import FAMILIES, read_matrix, survey
from attrlib.methods import METHODS
from attrlib.models import NAMED
from attrlib.protocols import PROTOCOLS
from attrlib.targets import TARGETS
from docs._build import api_page, data_page, matrix_page, methods_page, models_page, pictures, protocols_page, targets_page
from docs._build.markup import text
from docs._build.registered import MAPS, MATRIX, facts, methods, slug

ROOT = Path(__file__).parents[1]

OURS = [name for name, cls in METHODS.items() if not cls.code]
NAMES = {"methods": OURS, "targets": list(TARGETS), "protocols": list(PROTOCOLS)}
FIELDS = {
    "methods": {"short", "formula", "oracle"},
    "targets": {"formula", "oracle"},
    "protocols": {"asks", "formula", "oracle", "tests", "cannot"},
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_registered_name_has_facts_and_none_is_left_over(kind: str) -> None:
    assert sorted(facts(kind)) == sorted(NAMES[kind]), f"docs/_build/{kind}.toml: add what is missing, take out what is gone"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_pages_count_all_methods_and_protocols(page: str) -> None:
    words = (ROOT / page).read_text()
    assert re.search(rf"\*\*(Methods|Explain)\*\*: {len(OURS)}\b", words)
    assert re.search(rf"\*\*(Protocols|Judge)\*\*: {len(PROTOCOLS)}\b", words)


@pytest.mark.parametrize("kind", NAMES)
def test_the_facts_have_all_fields_and_only_these(kind: str) -> None:
    for name, fact in facts(kind).items():
        assert set(fact) - {"chance"} == FIELDS[kind], name
        assert all(fact.values()), name


def test_the_tests_that_protocols_name_exist() -> None:
    for name, fact in facts("protocols").items():
        assert (ROOT / fact["tests"]).is_file(), name


@pytest.mark.parametrize("name", OURS)
def test_every_method_has_a_small_picture(name: str) -> None:
    file = MAPS / f"{slug(name)}.png"
    assert file.is_file(), f"run python -m docs._build.pictures --methods '{name}'"
    assert file.stat().st_size < 25_000
    assert json.loads((MAPS / "maps.json").read_text())[name] in pictures.MODELS


def test_no_picture_is_left_over_and_together_they_are_small() -> None:
    files = list(MAPS.glob("*.png"))
    assert {file.stem for file in files} == {slug(name) for name in OURS} | {"bird"}
    assert len({slug(name) for name in OURS}) == len(OURS)
    assert sum(file.stat().st_size for file in files) < 600_000


def test_the_matrix_has_a_cell_for_every_method_and_family() -> None:
    made = read_matrix(MATRIX)
    assert made.models == FAMILIES, "run attrlib doctor --matrix docs/reference/matrix.json --models families"
    assert sorted(made.cells) == sorted(OURS), "run attrlib doctor --matrix docs/reference/matrix.json, with --methods for new ones"
    for name, row in made.cells.items():
        assert list(row) == list(FAMILIES), name
        for title, cell in row.items():
            assert set(cell.valid) | set(cell.reasons) == set(NAMED), f"{name} on {title}: a refusal has a reason"


def test_a_column_of_the_matrix_is_what_the_doctor_finds() -> None:
    names = ["Gradient", "Grad-CAM", "Rollout", "BagNet", "LRP"]
    cells = read_matrix(MATRIX).cells
    found = survey({"BagNet": FAMILIES["BagNet"]}, names, limit=5).cells
    for name in names:
        one, other = found[name]["BagNet"], cells[name]["BagNet"]
        assert (one.valid, set(one.reasons), set(one.notes)) == (other.valid, set(other.reasons), set(other.notes)), name


def test_the_pages_name_everything_that_is_registered() -> None:
    page = methods_page.page()
    assert [line for name in OURS if (line := f"{{ #{slug(name)} }}") not in page] == []
    page = protocols_page.page()
    assert [name for name in PROTOCOLS if f"{{ #{name} }}" not in page] == []
    page = targets_page.page()
    assert [name for name in TARGETS if f"{{ #{name} }}" not in page] == []
    page = data_page.page()
    assert [d.name for d in attrlib.list_datasets() if f"`{d.name}`" not in page] == []
    page = models_page.page()
    assert [m.name for m in attrlib.list_models() if f"`{m.name}`" not in page] == []
    page = matrix_page.page()
    assert [info.name for info in methods() if f'id="{slug(info.name)}"' not in page] == []


def test_the_page_of_the_python_interface_has_every_export_once() -> None:
    exported = sorted({name for name in attrlib.__all__ if not name.startswith("_")})
    assert sorted(name for names in api_page.groups().values() for name in names) == exported


def test_text_from_the_code_is_no_markup() -> None:
    assert text("|w_c| * A^2, `a_b` <x>") == r"&#124;w\_c&#124; \* A^2, `a_b` &lt;x&gt;"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -r requirements-dev.txt")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_builds_without_a_warning(site: Path) -> None:
    for page in ("index.html", "reference/methods/index.html", "reference/api/index.html", "reference/cli/index.html"):
        assert (site / page).is_file()
    assert not (site / "_build").exists()


def test_the_page_of_the_command_line_has_the_options_of_every_command(site: Path) -> None:
    page = (site / "reference/cli/index.html").read_text()
    assert set(re.findall(r'\bid="?((?:explain|score)-[a-z-]+)', page)) >= {"explain-image", "explain-methods", "score-data", "score-limit"}


def test_every_formula_is_converted(site: Path) -> None:
    for name, count in (("methods", len(OURS)), ("targets", len(TARGETS)), ("protocols", len(PROTOCOLS))):
        page = (site / f"reference/{name}/index.html").read_text()
        assert page.count('<div class="formula"><math') >= count
        assert "arithmatex" not in page
        assert not re.findall(r"<m[a-z]+[^>]*>\\[a-zA-Z]+</m", page), "a command that the converter does not know"


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="?(https?:[^"\s>]+)', page.read_text())
        loaded += re.findall(r'<link[^>]*rel="?(?:stylesheet|preload|preconnect|icon)[^>]*href="?(https?:[^"\s>]+)', page.read_text())
        assert loaded == [], page


def test_every_link_inside_a_page_has_its_anchor(site: Path) -> None:
    for name in ("methods", "targets", "protocols", "matrix", "cli", "models", "data", "bring"):
        page = (site / f"reference/{name}/index.html").read_text()
        anchors = set(re.findall(r'\bid="?([^"\s>]+)', page))
        assert {link for link in re.findall(r'href="#([^"]+)"', page) if link not in anchors} == set(), name
    methods_anchors = set(re.findall(r'\bid="?([^"\s>]+)', (site / "reference/methods/index.html").read_text()))
    linked = set(re.findall(r'href="\.\./methods/#([^"]+)"', (site / "reference/matrix/index.html").read_text()))
    assert linked <= methods_anchors
    assert len(linked) == len(OURS)
