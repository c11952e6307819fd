"""The screen of a lesson: text and controls left, pictures right; the navigation, and the presenter view."""

from urllib.parse import urlencode, urljoin

import streamlit as st

from attrlib.engine.jobs import State
from pages.learn import controls, keys
from pages.learn.context import LessonContext, NotYet, pairs
from pages.learn.lesson import LESSONS, Lesson
from pages.shared import job_status, links, notices
from pages.shared.jobs import plain
from pages.shared.polling import poll
from pages.shared.tiles import blank, head
from pages.shared.widget_values import widget

STYLE = """
.st-key-learn_screen {display: grid; grid-template-columns: minmax(17rem, 2fr) 5fr; grid-template-rows: auto 1fr; gap: 0.5rem 2rem}
.st-key-learn_screen > div:has(> .st-key-learn_pictures) {grid-column: 2; grid-row: 1 / 3}
.st-key-learn_pictures {display: flex; flex-flow: row wrap; gap: 0.8rem 1.5rem}
.st-key-learn_pictures > div:has(> .st-key-learn_tiles) {width: 100%; max-width: WIDEST}
.st-key-learn_pictures > div:has(> .st-key-learn_see) {flex: 1 1 12rem}
.st-key-learn_screen .katex {font-size: 1em}
.st-key-learn_screen .katex-display {margin: 0.3rem 0 0.5rem; overflow-x: auto; overflow-y: hidden}
.st-key-learn_keys {display: none}
@media (max-width: 1000px) {
  .st-key-learn_screen {grid-template-columns: minmax(0, 1fr); grid-template-rows: auto}
  .st-key-learn_screen > div:has(> .st-key-learn_pictures) {grid-column: 1; grid-row: auto; order: -1}
  .st-key-learn_pictures > div:has(> .st-key-learn_tiles) {max-width: none}
}
"""
"""Text left, pictures right, as large as possible while all rows fit on the screen; below 1000 px the pictures come first."""
PRESENTER = """
html {font-size: 18px}
[data-testid="stSidebar"], [data-testid="stHeader"], [data-testid="stExpandSidebarButton"] {display: none}
.stMainBlockContainer {padding: 1rem 2rem 1rem !important}
"""
"""All sizes are in rem, so the font size scales the whole page."""
PRESENT = "Show only the lesson, in large type. Navigate with the arrow keys or a clicker; Esc exits."
BAR, HEAD, SEE = 120, 72, 110
"""Heights in presenter view, in pixels: the bar with the margins, the text above each row of tiles, and the text below the tiles."""


def show() -> None:
    """Show the navigation between lessons, and the lesson."""
    state = st.session_state
    lesson, names = LESSONS[state.learn_lesson], list(LESSONS)
    columns, rows = lesson.shape
    high = f"(100vh - {BAR + HEAD * rows + (SEE if columns > 2 else 0)}px) * {columns} / {rows}"
    widest = f"calc({high})" if columns > 2 else f"min({high}, 100% - 13.5rem)"
    st.html(f"<style>{STYLE.replace('WIDEST', widest)}{PRESENTER if state.learn_present else ''}</style>")
    _navigation(names.index(lesson.name), names)
    notices.problems("learn_problems")
    poll("learn_waits", lambda: _body(lesson), seconds=0.4)


def _navigation(place: int, names: list[str]) -> None:
    """Show title and number of the lesson, and the buttons and keys for navigation."""
    present = st.session_state.learn_present
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="learn_bar"):
        st.markdown(f"#### {place + 1}. {plain(LESSONS[names[place]].title)}", width="stretch")
        with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content", key="learn_ways"):
            st.button("Back", on_click=_move, args=(-1,), disabled=place == 0, icon=":material/arrow_back:", key="learn_back")
            with st.popover(f"{place + 1} of {len(names)}", icon=":material/list:"):
                for number, name in enumerate(names):
                    st.button(
                        f"{number + 1}. {LESSONS[name].title}",
                        on_click=_go,
                        args=(name,),
                        type="tertiary",
                        disabled=number == place,
                        key=f"learn_to_{name}",
                    )
            st.button(
                "Next",
                on_click=_move,
                args=(1,),
                disabled=place == len(names) - 1,
                icon=":material/arrow_forward:",
                icon_position="right",
                type="primary",
                key="learn_next",
            )
            st.button(
                "Exit" if present else "Present",
                on_click=_present,
                shortcut="P",
                icon=":material/close_fullscreen:" if present else ":material/slideshow:",
                key="learn_presenter",
                # No tooltip here: it would stay above the lesson as long as the button has the focus.
                help=None if present else PRESENT,
            )
    keys.listen(present, _move, _leave)


def _move(steps: int) -> None:
    """Move by some lessons from the session's current lesson, which may be later than the one drawn."""
    names = list(LESSONS)
    place = names.index(st.session_state.learn_lesson) + steps
    _go(names[min(max(place, 0), len(names) - 1)])


def _go(name: str) -> None:
    st.session_state.learn_lesson = name


def _present() -> None:
    st.session_state.learn_present = not st.session_state.learn_present


def _leave() -> None:
    st.session_state.learn_present = False


def _body(lesson: type[Lesson]) -> bool:
    """Show everything that depends on a control or a job; return whether a job is pending."""
    state = st.session_state
    with st.container(key="learn_screen"):
        words, pictures, below_words = st.container(key="learn_words"), st.container(key="learn_pictures"), st.container(key="learn_links")
        with words:
            st.markdown(f"**{lesson.claim}**")
            controls.show(lesson)
            _choose_birds()
            current = controls.chosen(lesson.name)
            st.latex(current.formula)
            st.caption(current.letters)
        with pictures:
            tiles, below = st.container(key="learn_tiles"), st.container(key="learn_see")
        waits = False
        with tiles:
            try:
                seen = current.show(LessonContext(state.learn_model, state.learn_bird))
                below.markdown(f"**What you see.** {seen}")
            except NotYet as wait:
                # The job may have ended since it was checked: the next rerun then draws its result.
                waits = job_status.waits_for(wait.job) or wait.job.state is State.DONE
                if waits:
                    _blank(*lesson.shape)
        with below_words:
            _links(current)
    links.write(urlencode(controls.fields_of(current)))
    return waits


def _choose_birds() -> None:
    """Show the choosers for bird and models, which all lessons share."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.button("Another bird", on_click=_another, icon=":material/refresh:", key="learn_another")
        with st.popover("Model", icon=":material/tune:"):
            options = {p.name: p for p in controls.params_of(controls.LessonOptions)}
            st.selectbox("Model", pairs(), key="learn_model", persist_state="session", help=options["model"].help)
            st.number_input("Bird", 0, int(options["bird"].high or 0), help=options["bird"].help, **widget("learn_bird"))


def _another() -> None:
    st.session_state.learn_bird = (st.session_state.learn_bird + 1) % 1000


def _blank(columns: int, rows: int) -> None:
    """Show empty tiles of the final size, so that the layout stays stable."""
    grid = st.grid(columns, min_column_width=140, gap="small", key="learn_blank")
    for _ in range(columns * rows):
        with grid.cell():
            head("…", "")
            st.image(blank((128, 128)), width="stretch", alt="Not ready yet")


def _links(lesson: Lesson) -> None:
    """Show links to the paper and to the page with the same experiment, which open in a new tab."""
    beyond = lesson.beyond(st.session_state.learn_model)
    address = urljoin(st.context.url or "", f"./{beyond.path}") + beyond.query
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.link_button(beyond.label, address, icon=":material/open_in_new:", type="tertiary")
        st.caption(f"[{plain(lesson.paper.authors)}: {plain(lesson.paper.title)}]({lesson.paper.url})")
