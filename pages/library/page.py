"""What is available? Models, data sets, the machine, and the store."""

import streamlit as st

from pages.library import data, doctor, models, store
from pages.shared import links, notices, pickers, reproduce

SECTIONS = {
    "models": models.show,
    "data": data.show,
    "doctor": doctor.show,
    "cache": store.show_cache,
    "device": store.show_device,
}
COMMANDS = {
    "models": ("python -m attrlib models 'timm:resnet*'", "import attrlib\n\nattrlib.list_models('timm:resnet*')"),
    "data": ("python -m attrlib datasets", "import attrlib\n\nattrlib.list_datasets()"),
    "cache": (
        "python -m attrlib cache show\npython -m attrlib cache verify\npython -m attrlib cache prune --max-bytes 2GB",
        "from attrlib.store import open_store\n\nstore = open_store()\nprint(store.sizes(), store.runs())",
    ),
    "device": ("python -c 'import torch; print(torch.__config__.show())'", "import attrlib\n\nmodel = attrlib.load_model(device='cpu')"),
}


def main() -> None:
    """Show one section at a time, so that hidden sections cost nothing."""
    state = st.session_state
    if "l_section" not in state:
        asked = st.query_params.get("section", "models")
        state.l_section = asked if asked in SECTIONS else "models"
        state.l_problems = [] if asked in SECTIONS else [f"There is no section {asked[:40]!r}; the models are shown."]
    st.markdown("#### What is available?")
    st.caption("Models, data sets, cached results and the device that all pages use.")
    notices.problems("l_problems")
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="l_bar"):
        pickers.switch("Section", list(SECTIONS), "l_section", label_visibility="collapsed")
        with reproduce.popover(f"?section={state.l_section}", "Link to this section"):
            command, snippet = doctor.commands() if state.l_section == "doctor" else COMMANDS[state.l_section]
            reproduce.command_line(command)
            reproduce.python(snippet)
    links.write(f"?section={state.l_section}")
    SECTIONS[state.l_section]()


main()
