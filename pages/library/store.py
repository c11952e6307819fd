"""The cache with its sizes and runs, verification and pruning, and the machine."""

import time
from dataclasses import asdict
from typing import Any

import psutil
import streamlit as st
import torch

from attrlib.engine.jobs import Job, Queue, State, queue
from attrlib.models import pick_device
from attrlib.specs import digest
from attrlib.store import Run, Sizes, Store, Verified, open_store
from pages.shared import job_status, jobs
from pages.shared.jobs import plain, sentence
from pages.shared.pager import page_of
from pages.shared.roots import readable
from pages.shared.times import size

FRESH = 20
"""Seconds for which what was read from the store is reused."""
PAGE = 25
"""Number of runs on one page of the list."""


def show_cache() -> None:
    """Show sizes, the actions on the cache, and the runs."""
    state = st.session_state
    state.setdefault("l_tick", time.monotonic_ns())
    looking = queue("store").submit(digest("library", state.l_tick, int(time.time() / FRESH)), lambda _progress: _look())
    found: tuple[Sizes, list[Run], Store] | None = job_status.wait_for(looking, "Reading the cache")
    if found is None:
        return
    sizes, runs, store = found
    _sizes(sizes, store)
    with st.container(horizontal=True, gap="small", key="l_store_bar"):
        st.button("Refresh", on_click=_tick, icon=":material/refresh:", key="l_refresh")
        st.button("Verify", on_click=_begin, args=("verify",), icon=":material/fact_check:", key="l_verify", help="Reads every map and drops damaged or missing ones; they are computed again when needed.")  # fmt: skip
        _prune(sizes)
    _action()
    _runs(runs)


def _look() -> tuple[Sizes, list[Run], Store]:
    store = open_store()
    return store.sizes(), store.runs(), store


def _tick() -> None:
    st.session_state.l_tick += 1


def _sizes(sizes: Sizes, store: Store) -> None:
    st.caption(f"{_place(store)}Set ATTRLIB\\_CACHE to change the folder, and ATTRLIB\\_CACHE\\_BYTES to change the limit for maps.")
    total = max(1, sizes.map_bytes + sizes.database_bytes)
    row = st.grid(min_column_width=150, gap="small", key="l_sizes")
    for label, count, nbytes in (("Maps", sizes.maps, sizes.map_bytes), ("Results", sizes.records, sizes.database_bytes)):
        with row.cell():
            st.metric(label, size(nbytes), f"{count:,} stored", delta_color="off", delta_arrow="off")
            st.progress(nbytes / total, text=f"{100 * nbytes / total:.0f} % of the cache")
    with row.cell():
        st.metric("Runs", f"{sizes.runs:,}", f"{sizes.specs:,} specs", delta_color="off", delta_arrow="off")
    for note in store.notes:
        st.warning(sentence(note), icon=":material/info:")


def _place(store: Store) -> str:
    """Return where the store is, for visitors who may see it."""
    return f"Stored in {plain(str(store.folder))}. " if readable(str(store.folder)) else "On the server: "


def _prune(sizes: Sizes) -> None:
    with st.popover("Prune", icon=":material/delete:"):
        st.caption(
            "Removes the least recently used maps. Scores and runs stay unless you choose Everything. Removed results can be computed again."
        )
        gigabytes = st.number_input("Keep at most (GB)", 0.0, step=0.5, value=sizes.map_bytes / 2**30, format="%.2f", key="l_keep")
        everything = st.checkbox("Everything: all maps, scores and runs", key="l_everything")
        what = "all maps, scores and runs" if everything else f"maps beyond {gigabytes:.2f} GB"
        sure = st.checkbox(f"Yes, delete {what} for all users of this server", key="l_sure")
        st.button(
            "Delete", on_click=_begin, args=("prune", int(gigabytes * 2**30), everything), disabled=not sure, type="primary", icon=":material/delete_forever:", key="l_prune"
        )  # fmt: skip


def _begin(action: str, *arguments: Any) -> None:
    state = st.session_state
    state.l_tick += 1
    state.l_sure = False

    def work_on(_progress: Any) -> Any:
        store = open_store()
        return store.verify() if action == "verify" else store.prune(*arguments)

    key = digest(action, state.l_tick)
    queue("store").submit(key, work_on)
    state.l_action = key


def _action() -> None:
    """Show the outcome of the last verification or pruning."""
    key = st.session_state.get("l_action")
    job: Job | None = queue("store").find(key) if key else None
    if job is None:
        return
    done = job_status.wait_for(job, "Working on the cache")
    if job.state is not State.DONE:
        return
    if isinstance(done, Verified):
        found = ", ".join(f"{name} {count}" for name, count in asdict(done).items())
        sound = not (done.damaged or done.missing or done.databases)
        (st.success if sound else st.warning)(f"Verified: {found}.", icon=":material/fact_check:")
    else:
        st.success(f"Freed {size(done)}.", icon=":material/check:")


def _runs(runs: list[Run]) -> None:
    st.markdown(f"##### Runs: {len(runs)}")
    if not runs:
        st.info("No runs yet. Start one on the page Scores or Aggregate.", icon=":material/leaderboard:")
        return
    place = st.container()
    page = runs[page_of(len(runs), PAGE, "l_runs_page", "Newer", "Older")]
    rows = [
        {"state": r.state, "updated (UTC)": r.updated[:19].replace("T", " "), "command": str(r.spec.get("title", "")), "parts": len(r.parts), "key": r.key[:12]}
        for r in page
    ]  # fmt: skip
    columns = {"command": st.column_config.TextColumn(width="large")}
    place.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=columns, key="l_runs")


def show_device() -> None:
    """Show the device that models run on, the available memory, and what the queue keeps."""
    device, memory = pick_device("auto"), psutil.virtual_memory()
    row = st.grid(min_column_width=170, gap="small", key="l_device")
    with row.cell():
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        st.metric("Device", name, f"torch {torch.__version__}, threads: {torch.get_num_threads()}", delta_color="off", delta_arrow="off")
    used = [("System memory", memory.total - memory.available, memory.total)]
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used.append(("GPU memory", total - free, total))
    used.append(("This process", psutil.Process().memory_info().rss, memory.total))
    maps: Queue = jobs.device_queue()
    used.append(("Map cache", maps.kept_bytes, maps.max_bytes))
    for label, now, most in used:
        with row.cell():
            st.metric(label, size(now), f"of {size(most)}", delta_color="off", delta_arrow="off")
            st.progress(min(1.0, now / most))
    st.button("Refresh", icon=":material/refresh:", key="l_refresh_device")
    st.caption(
        "Models run on the first GPU if there is one. Short jobs run between the chunks of long runs, so interactive pages stay responsive."
    )
