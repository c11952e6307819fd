"""Turn the pages of a long list."""

import streamlit as st


def page_of(count: int, size: int, key: str, back: str, forward: str) -> slice:
    """Return the items of the current page, after showing buttons that turn it if there are several pages.

    Args:
        count: Number of items.
        size: Number of items on a page.
        key: Session key that keeps the current page.
        back: Label of the button to the page before.
        forward: Label of the button to the next page.
    """
    state, last = st.session_state, max(0, -(-count // size) - 1)
    state[key] = page = min(state.get(key, 0), last)
    if last:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button(back, on_click=_turn, args=(key, -1), disabled=page == 0, icon=":material/chevron_left:", key=f"{key}_back")
            st.markdown(f"page {page + 1} of {last + 1}", width="content")
            st.button(forward, on_click=_turn, args=(key, 1), disabled=page == last, icon=":material/chevron_right:", key=f"{key}_forward")  # fmt: skip
    return slice(page * size, (page + 1) * size)


def _turn(key: str, step: int) -> None:
    st.session_state[key] += step
