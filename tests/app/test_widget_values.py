"""A value that a callback sets stays, whatever a late message of the browser says of the widget from before."""

import pytest
from streamlit.testing.v1 import AppTest
from support.pages import control, late_poll, open_page, press, run


def page() -> None:
    # AppTest runs the body of this function alone.
    import streamlit as st

    from pages.shared.widget_values import chooser

    state = st.session_state
    state.setdefault("choice", "a")
    state.setdefault("changes", 0)

    def count() -> None:
        state.changes += 1

    st.selectbox("Choice", **chooser("choice", ["a", "b", "c"], count))
    st.button("Set", on_click=lambda: state.update(choice="b"))


@pytest.fixture
def at() -> AppTest:
    return run(AppTest.from_function(page))


def test_a_late_poll_does_not_undo_what_a_callback_has_set(at: AppTest) -> None:
    for _ in range(3):
        late_poll(at, lambda: press(at, "Set"))
        assert at.session_state["choice"] == control(at, "choice").value == "b"
        control(at, "choice").set_value("c")
        run(at)
        assert at.session_state["choice"] == control(at, "choice").value == "c"
    assert at.session_state["changes"] == 3


def test_a_value_that_the_page_sets_is_shown(at: AppTest) -> None:
    at.session_state["choice"] = "c"
    assert control(run(at), "choice").value == "c"
    assert at.session_state["changes"] == 0


def test_another_bird_is_not_undone_by_a_late_poll() -> None:
    at = run(open_page("learn", lesson="what"))
    before = at.session_state["learn_bird"]
    late_poll(at, lambda: press(at, "Another bird"))
    assert at.session_state["learn_bird"] == before + 1


@pytest.mark.parametrize("name", ["inspect", "aggregate", "scores"])
def test_a_preset_is_not_undone_by_a_late_poll(name: str) -> None:
    key = {"inspect": "methods", "aggregate": "a_methods", "scores": "s_methods"}[name]
    at = run(open_page(name))
    before = list(at.session_state[key])
    preset = next(b for b in at.button if str(b.key).startswith(f"{name}_preset_"))
    late_poll(at, lambda: run(preset.click()))
    assert list(at.session_state[key]) != before
