"""Open the pages of the app without a browser, read their content, and wait for it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from attrlib import Classifier

from .waiting import LIMIT
from .waiting import until as wait_until

APP = Path(__file__).parents[2] / "app.py"
Checkpoints = Callable[[Mapping[str, Classifier]], None]
"""Function that makes pages load these models for checkpoints of these names."""

WIDGETS = ("selectbox", "multiselect", "number_input", "checkbox", "text_input", "text_area")
MESSAGES = ("caption", "warning", "error", "info", "success", "alert")


def open_page(name: str = "", **query: object) -> AppTest:
    """Return a page that has not run yet, opened by a link with these fields. A list is a repeated field."""
    at = AppTest.from_file(str(APP), default_timeout=LIMIT)
    if name:
        at.switch_page(f"pages/_{name}.py")
    for field, value in query.items():
        at.query_params[field] = [str(v) for v in value] if isinstance(value, list) else str(value)
    return at


def nodes(at: AppTest, kind: str) -> list[Any]:
    """Return all elements of a kind in the main area and in an open dialog, in order."""

    def walk(node: Any) -> Iterator[Any]:
        for child in getattr(node, "children", {}).values():
            if child.type == kind:
                yield child
            yield from walk(child)

    # Streamlit's third root, after the main area and the sidebar, holds dialogs.
    return [*walk(at.main), *(walk(at._tree.children[2]) if 2 in at._tree.children else ())]


def texts(at: AppTest, *more: str) -> str:
    """Return the messages in the main area and the texts of further kinds of elements, as Markdown source."""
    return "\n".join(str(n.value) for kind in (*MESSAGES, *more) for n in nodes(at, kind))


def words(at: AppTest, *more: str) -> str:
    """Return the messages and the prose in the main area as displayed, without Markdown escapes."""
    return texts(at, "markdown", *more).replace("\\", "")


def pictures(at: AppTest) -> list[Any]:
    """Return identifiers of the pictures in the main area, which change with their content."""
    return [n.value for n in nodes(at, "image") + nodes(at, "imgs")]


def link(at: AppTest) -> dict[str, str]:
    """Return the fields of the page's address; for a repeated field, the first value."""
    values = {name: at.query_params[name] for name in at.query_params}
    return {name: value if isinstance(value, str) else value[0] for name, value in values.items()}


def buttons(at: AppTest) -> list[str]:
    """Return the labels of all buttons."""
    return [b.label for b in at.button]


def control(at: AppTest, key: str) -> Any:
    """Return the widget of the value that the session keeps under `key`, as `pages.shared.widget_values` names it."""
    return next(w for kind in WIDGETS for w in at.get(kind) if str(w.key).rpartition("-")[0] == key)


def type_into(at: AppTest, key: str, value: object) -> None:
    """Set the value that the session keeps under `key`, as typing a new entry into a chooser does, which Streamlit's tests cannot."""
    at.session_state[key] = value


def press(at: AppTest, label: str) -> AppTest:
    """Click the first button with the label, and run the page."""
    return run(next(b for b in at.button if b.label == label).click())


def run(at: AppTest | Any) -> AppTest:
    """Run the page, or the page of an element, and assert that it does not fail."""
    page: AppTest = at.run()
    assert not page.exception, [e.value for e in page.exception]
    return page


def late_poll(at: AppTest, act: Callable[[], object]) -> AppTest:
    """Act on the page, then poll it as a browser that has not received the answer yet: with the values of its widgets from before."""
    before = at._tree.get_widget_states()
    act()
    at._run(before)
    assert not at.exception, [e.value for e in at.exception]
    return at


def until(at: AppTest, condition: Callable[[AppTest], object]) -> AppTest:
    """Run the page repeatedly, as a browser would, until the condition holds."""
    wait_until(lambda: condition(run(at)), lambda: words(at) + str([n.proto.text for n in nodes(at, "progress")]))
    return at


def waits(at: AppTest) -> bool:
    """Return whether the page shows anything as pending."""
    hourglass = any("hourglass_top" in str(n.value) for kind in ("caption", "markdown") for n in nodes(at, kind))
    return hourglass or bool(nodes(at, "progress"))


def settle(at: AppTest) -> AppTest:
    """Run the page until it shows nothing as pending."""
    return until(at, lambda at: not waits(at))


def heads(at: AppTest) -> list[tuple[str, str]]:
    """Return the title and the second line of each tile."""
    found = [n.proto.body for n in nodes(at, "html") if 'data-testid="tile-title"' in n.proto.body]
    return [(_part(html, "tile-title"), _part(html, "tile-line")) for html in found]


def titles(at: AppTest) -> list[str]:
    """Return the titles of the tiles."""
    return [title for title, _ in heads(at)]


def targets(at: AppTest) -> list[str]:
    """Return the line for the target of each tile that has one; that of the photo is empty."""
    found = [n.proto.body for n in nodes(at, "html") if 'data-testid="tile-target"' in n.proto.body]
    return [_part(html, "tile-target").replace("&nbsp;", "") for html in found]


def _part(html: str, name: str) -> str:
    """Return the text of the element with this test id."""
    return html.split(f'data-testid="{name}"')[1].split(">", 1)[1].split("<")[0]
