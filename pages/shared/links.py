"""Keep the address of a page equal to the link that restores it."""

from urllib.parse import parse_qs

import streamlit as st


def write(link: str) -> None:
    """Write a link, given as a query string, into the page's address unless it is there already."""
    fields = parse_qs(link.lstrip("?"), keep_blank_values=True)
    if {name: st.query_params.get_all(name) for name in st.query_params} != fields:
        st.query_params.from_dict(fields)
