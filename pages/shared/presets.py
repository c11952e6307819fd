"""Lists of methods with the settings of published studies, to be taken instead of choosing one by one."""

from collections.abc import Callable

import streamlit as st

from attrlib.methods import Preset, list_presets
from pages.shared.jobs import plain


def choose(key: str, take: Callable[[Preset], None]) -> None:
    """A popover with a button for each preset, which hands it to `take`; what a model does not support is named when it runs."""
    with st.popover("Presets", icon=":material/playlist_add:", width="stretch", key=f"{key}_presets"):
        for preset in list_presets():
            paper = preset.paper
            st.button(
                f"{preset.title}, {len(preset.members)} methods",
                key=f"{key}_preset_{preset.name}",
                on_click=take,
                args=(preset,),
                width="stretch",
            )
            st.caption(f"{plain(preset.summary)}  \n[{plain(paper.authors)}: {plain(paper.title)}]({paper.url})")
