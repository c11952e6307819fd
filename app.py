"""Router: which page answers which question."""

import streamlit as st

from pages.shared import router

st.set_page_config(page_title="attrlib", page_icon=":material/filter_center_focus:", layout="wide")
page = router.navigation()
# Maps are the interface: leave them the width that Streamlit keeps for margins.
st.html(
    "<style>.stMainBlockContainer {padding: 2.2rem 2.5rem 4rem}"
    "@media (max-width: 1000px) {.stMainBlockContainer {padding: 2.2rem 1.4rem 4rem}}</style>"
)

# Only now, so that the first visitor sees the pages, and what is waited for, while torch is loaded; _openmp before anything that loads it.
with st.empty(), st.spinner("Starting: PyTorch is being loaded …"):
    import attrlib._openmp  # noqa: F401
    from pages.shared import sidebar

sidebar.show()
page.run()
