"""The list of pages and how they are reached."""

import runpy
from pathlib import Path

import streamlit as st

APP = Path(__file__).parents[2] / "app.py"


def navigation() -> st.Page:
    """Register all pages in the sidebar and return the requested one."""
    return st.navigation(
        [
            st.Page("pages/inspect/page.py", url_path="inspect", title="Inspect", icon=":material/image_search:", default=True),
            st.Page("pages/aggregate/page.py", url_path="aggregate", title="Aggregate", icon=":material/grid_view:"),
            st.Page("pages/scores/page.py", url_path="scores", title="Scores", icon=":material/leaderboard:"),
            st.Page("pages/studies/page.py", url_path="studies", title="Studies", icon=":material/science:"),
            st.Page("pages/learn/page.py", url_path="learn", title="Learn", icon=":material/school:"),
            st.Page("pages/library/page.py", url_path="library", title="Library", icon=":material/inventory_2:"),
        ]
    )


def through_router() -> None:
    """Run app.py, which knows all pages, in place of the script that Streamlit has found.

    Until a server has run app.py once, it takes the folder `pages` for an app without a router. It looks for the page whose link is opened
    first among the files in that folder, and reports a missing page if there is no match: hence one file for each page.
    """
    runpy.run_path(str(APP), run_name="__main__")
