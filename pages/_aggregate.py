"""Where Streamlit looks for the page `aggregate` while it does not know the router; see `pages/shared/router.py`."""

from pages.shared.router import through_router

through_router()
