"""Which pages there are, and how they are reached."""

import streamlit as st


def navigation() -> st.Page:
    """Lists all pages in the sidebar, and says which one was asked for."""
    st.session_state.routed = True
    return st.navigation(
        [
            st.Page("pages/inspect.py", title="Inspect", icon=":material/image_search:", default=True),
            st.Page("pages/aggregate.py", title="Aggregate", icon=":material/grid_view:"),
            st.Page("pages/scores.py", title="Scores", icon=":material/leaderboard:"),
            st.Page("pages/studies.py", title="Studies", icon=":material/science:"),
            st.Page("pages/learn.py", title="Learn", icon=":material/school:"),
            st.Page("pages/library.py", title="Library", icon=":material/inventory_2:"),
        ]
    )


def through_router() -> None:
    """Sees to it that a page is run by app.py.

    A server that has not run app.py yet takes the folder for an app without router, and runs a page whose link is opened first alone.
    """
    if "routed" not in st.session_state:
        navigation()
        st.rerun()
