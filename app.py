"""Router: which page answers which question."""

import attrlib._openmp  # noqa: F401, I001  before anything that loads torch
import streamlit as st

from pages.parts import router, sidebar

st.set_page_config(page_title="attrlib", page_icon=":material/filter_center_focus:", layout="wide")
st.session_state.routed = True
pages = router.pages()
page = st.navigation(pages, position="hidden")
# Maps are the interface: leave them the width that Streamlit keeps for margins.
st.html("<style>.stMainBlockContainer {padding: 2.2rem 2.5rem 4rem}</style>")
sidebar.show(pages)
page.run()
