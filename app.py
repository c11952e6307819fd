"""Router: which page answers which question."""

import attrlib._openmp  # noqa: F401, I001  before anything that loads torch
import streamlit as st

from pages.parts import sidebar

st.set_page_config(page_title="attrlib", page_icon=":material/filter_center_focus:", layout="wide")
page = st.navigation([st.Page("pages/inspect.py", title="Inspect", icon=":material/image_search:", default=True)], expanded=True)
# Maps are the interface: leave them the width that Streamlit keeps for margins.
st.html("<style>.stMainBlockContainer {padding: 2.2rem 2.5rem 4rem}</style>")
sidebar.show()
page.run()
