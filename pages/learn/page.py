"""How do I teach it? Twelve lessons with live controls, one screen each, for a lecture from this page alone."""

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
            "The lessons need a bird model and its deletion-tuned twin, and assets/models has none: "
            "`python -m attrlib.training.family --photos FOLDER_OF_IMAGENETTE` makes them.",
            icon=":material/school:",
        )
        return
    controls.start(st.query_params.to_dict())
    frame.show()


main()
