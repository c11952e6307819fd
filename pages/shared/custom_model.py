"""A form that adds a custom model, given by architecture, file and input size, to a list of models."""

import streamlit as st

from attrlib.errors import AttrlibError
from attrlib.models import parse_model
from attrlib.specs import ModelSpec, parse_size

FILE_HELP = (
    "No code in the file is run. To name the classes, put my_model.txt next to it, with one name per line in the order of the outputs."
)
SIZE_HELP = "Height and width in pixels, as in 192x256, or one number for a square. Images are resized and cropped to it."


def form(page: str) -> None:
    """Show the form. `page` is the first letter of the page's session keys; the model is added to that page's list."""
    with st.form(f"{page}_checkpoint", border=False):
        st.text_input("Architecture", key=f"{page}_architecture", placeholder="timm:resnet18")
        st.text_input("File on this computer", key=f"{page}_file", placeholder="my_model.safetensors", help=FILE_HELP)
        st.text_input("Input size", key=f"{page}_size", placeholder="the model's own", help=SIZE_HELP)
        st.form_submit_button("Add model", on_click=_add, args=(page,))


def _add(page: str) -> None:
    state = st.session_state
    name, file, size = (state[f"{page}_{field}"].strip() for field in ("architecture", "file", "size"))
    try:
        text = parse_model(ModelSpec(name, file or None, parse_size(size) if size else None).text).text
    except AttrlibError as error:
        state[f"{page}_problems"] = [*state[f"{page}_problems"], str(error)]
        return
    state[f"{page}_models"] = list(dict.fromkeys([*state[f"{page}_models"], text]))
