"""The Learn page: twelve lessons with live controls, one screen each."""

import streamlit as st

from pages.learn import (
    controls,
    frame,
    lessons,  # noqa: F401  which registers them
)
from pages.learn.context import pairs


def main() -> None:
    """Show one lesson, and the navigation to the others."""
    if not pairs():
        st.info(
            "The lessons need a bird model with its deletion-tuned version, but assets/models has none. Train them with "
            "`python -m attrlib.training.family --photos FOLDER_OF_IMAGENETTE`.",
            icon=":material/school:",
        )
        return
    controls.start(st.query_params.to_dict())
    frame.show()


main()
