"""The part of the sidebar that all pages share, below the navigation: the app's name and the device it computes on."""

import streamlit as st
import torch

from attrlib.models import pick_device
from pages.shared import jobs
from pages.shared.times import size


def show() -> None:
    """Show name, device and memory."""
    device = pick_device("auto")
    maps = jobs.device_queue()
    with st.sidebar:
        st.caption("**attrlib** shows which pixels made the model say that, and which attribution method to trust.")
        st.caption(f"**Device** {_device_name(device)}  \n**Map cache** {size(maps.kept_bytes)} of {size(maps.max_bytes)}")


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return f"{device.type.upper()}, {threads} thread{'s' if threads != 1 else ''}"
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)}, {(total - free) / 2**30:.1f} of {total / 2**30:.0f} GB used"
