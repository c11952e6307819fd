"""Upload maps that were made elsewhere, to be scored as one more method."""

import streamlit as st

from attrlib.data.maps import UPLOADS, keep
from attrlib.errors import AttrlibError
from attrlib.specs.maps import maps_spec
from attrlib.store import open_store

KEY = "s_maps_file"
MAPS_MB = 200


def choose() -> None:
    """Show the popover with the control to upload a file."""
    with st.popover("Upload maps", icon=":material/upload:", width="stretch"):
        st.file_uploader(
            f"Maps made elsewhere ({UPLOADS})",
            [suffix.strip(" .") for suffix in UPLOADS.split(",")],
            key=KEY,
            on_change=_take,
            max_upload_size=MAPS_MB,
            help="One array (images, height, width), in the order of the data, or in an .npz one array for each image, named as the image. They "
            "are matched to the images when the run is planned.",
        )
        st.caption(f"Up to {MAPS_MB} MB. HDF5 and Zarr: type maps:file=PATH as a method, with a path on the server.")


def _take() -> None:
    state = st.session_state
    file = state[KEY]
    if file is None:
        return
    try:
        entry = str(maps_spec(keep(file.getvalue(), file.name, open_store().folder)))
    except AttrlibError as error:
        state.s_problems = [*state.get("s_problems", ()), str(error)]
        return
    if entry not in state.s_methods:
        state.s_methods = [*state.s_methods, entry]
