"""Small parts that the tools of Inspect share: choosing a map, and a picture with its title."""

from collections.abc import Sequence

import streamlit as st
from PIL import Image

from attrlib.figures.overlay import encode
from pages.inspect.tile_rows import Ready
from pages.shared.tiles import head


def pick(label: str, maps: Sequence[Ready], key: str, otherwise: int = 0) -> Ready:
    """One of the maps, by default the one at place `otherwise`, or the last.

    What was chosen is remembered apart, as maps come and go: it is taken again as soon as it is there again.
    """
    state, wish = st.session_state, f"{key}_wish"
    names = {ready.name: ready for ready in maps}
    state[key] = state[wish] if state.get(wish) in names else list(names)[min(otherwise, len(names) - 1)]
    return names[st.selectbox(label, list(names), key=key, on_change=_remember, args=(key, wish), width=250)]


def _remember(key: str, wish: str) -> None:
    st.session_state[wish] = st.session_state[key]


def keep(key: str, options: Sequence[object], default: object) -> None:
    """Sets a widget's state to the default where it holds none of the options."""
    if st.session_state.get(key) not in options:
        st.session_state[key] = default


def figure(title: str, line: str, image: Image.Image, alt: str) -> None:
    """A picture as a tile: title, a line below it, and words for who does not see it."""
    head(title, line)
    st.image(encode(image), width="stretch", alt=alt)


def signed(value: float) -> str:
    """A correlation with its sign; a dash where it is undefined."""
    return "–" if value != value else f"{value:+.2f}".replace("-", "−")
