"""Where Streamlit looks for the page `learn` while it does not know the router; see `pages/shared/router.py`."""

from pages.shared.router import through_router

through_router()
