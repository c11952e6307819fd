"""The file by which Streamlit finds the page `aggregate` before app.py has run; see `pages/shared/router.py`."""

from pages.shared.router import through_router

through_router()
