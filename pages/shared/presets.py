"""Lists of methods with the settings of published studies, as a shortcut to choosing methods one by one."""

from collections.abc import Callable

import streamlit as st

from attrlib.methods import Preset, list_presets
from pages.shared.jobs import plain


def choose(key: str, take: Callable[[Preset], None]) -> None:
    """Show a popover with one button per preset, which passes it to `take`; methods the model does not support are reported by the run.

    Presets of a single method are in the chooser of methods.
    """
    with st.popover("Presets", icon=":material/playlist_add:", width="stretch", key=f"{key}_presets"):
        for preset in (each for each in list_presets() if len(each.members) > 1):
            paper = preset.paper
            st.button(
                f"{preset.title}, {len(preset.members)} methods",
                key=f"{key}_preset_{preset.name}",
                on_click=take,
                args=(preset,),
                width="stretch",
            )
            st.caption(f"{plain(preset.summary)}  \n[{plain(paper.authors)}: {plain(paper.title)}]({paper.url})")
