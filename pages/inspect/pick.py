"""Small widgets that the tools of Inspect share: choosers of a map and of few options."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from attrlib.targets import TARGETS, short
from pages.inspect.tile_rows import Ready
from pages.shared import pickers, targets
from pages.shared.jobs import plain


def pick(label: str, maps: Sequence[Ready], key: str, otherwise: int = 0) -> Ready:
    """Return the chosen map, by default the one at index `otherwise`, or the last one.

    The choice is stored separately, as maps come and go: it is restored as soon as its map is back.
    """
    state, wish = st.session_state, f"{key}_wish"
    names = {ready.name: ready for ready in maps}
    state[key] = state[wish] if state.get(wish) in names else list(names)[min(otherwise, len(names) - 1)]
    return names[st.selectbox(label, list(names), key=key, on_change=_remember, args=(key, wish), width=250)]


def of_class(ready: Ready) -> bool:
    """Return whether a map is evidence for its class, after a message if it is not: deletion measures what the class loses."""
    target = ready.attribution.spec.target
    if TARGETS[target.name].about_class:
        return True
    st.info(
        f"Deletion measures what the class loses, but this map explains {plain(str(short(target)))}. Choose a map whose target is "
        f"{', '.join(targets.OF_CLASS[:-1])} or {targets.OF_CLASS[-1]}.",
        icon=":material/block:",
    )
    return False


def _remember(key: str, wish: str) -> None:
    st.session_state[wish] = st.session_state[key]


def switch(label: str, options: Sequence[object] | Mapping[Any, str], key: str, hint: str, default: object = None) -> Any:
    """Show few options side by side; return the chosen one, at first `default` or the first option."""
    keep(key, list(options), next(iter(options)) if default is None else default)
    pickers.switch(label, options, key, hint)
    return st.session_state[key]


def keep(key: str, options: Sequence[object], default: object) -> None:
    """Set a widget's state to the default if its value is not among the options."""
    if st.session_state.get(key) not in options:
        st.session_state[key] = default
