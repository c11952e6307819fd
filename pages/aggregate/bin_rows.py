"""AggAtt on the page: one row per method and layer with its bins in the middle, and the images of a bin."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from attrlib.aggregation.panels import subtitle, view_of
from attrlib.engine.jobs import Job, State
from attrlib.figures.aggatt import SIDE, bin_names, panel
from attrlib.figures.by_layer import Scores, boxes, shows_points
from attrlib.figures.overlay import colour_map, encode
from attrlib.methods import resolve
from attrlib.protocols import create
from attrlib.specs import AggregateView, MethodSpec, ProtocolSpec
from pages.aggregate import row_jobs
from pages.aggregate.row_jobs import PAGE, Found, Shown, Tile
from pages.shared import downloads, job_status, jobs, tiles
from pages.shared.jobs import plain, sentence
from pages.shared.pager import page_of
from pages.shared.plots import camera


def show(found: Found, methods: tuple[MethodSpec, ...], setting: ProtocolSpec, view: AggregateView) -> bool:
    """Show all rows, their scores, and the images of the chosen bin; return whether a job is pending."""
    row_jobs_of = {method: row_jobs.row_job(found, method, view) for method in methods}
    waiting = any(not job.ended for job in row_jobs_of.values())
    done = {method: job.result for method, job in row_jobs_of.items() if job.state is State.DONE}
    kept = st.session_state.setdefault("a_kept", {})
    kept |= {method: job.key for method, job in row_jobs_of.items() if job.state is State.DONE}
    _explain(list(done.values()), view)
    for number, (method, job) in enumerate(row_jobs_of.items()):
        _row(number, method, job, _last(kept.get(method)), view)
    if done:
        _boxes(list(done.values()), setting)
        downloads.button("Panel (PNG)", partial(_panel, list(done.values()), view), "aggatt.png")
    return _bin_images(found, done, view) or waiting


def _explain(done: list[Shown], view: AggregateView) -> None:
    """Explain how to read the rows and their colours, which mean the same in all rows."""
    sizes = f" The bins hold {', '.join(map(str, done[0].row.aggregate.sizes))} maps." if done else ""
    st.caption(
        "Left: examples from the best bin. Middle: the mean map of each bin, best 2 % first. Right: examples from the worst bin."
        f"{sizes} Click a bin to see its images."
    )
    ends = ("−", "0", "+") if view.average == "signed" else ("0", "", "99.5th percentile of the row")
    with st.container(width=420):
        st.html(tiles.colour_bar(colour_map(view_of(view)), ends))


def _last(key: str | None) -> Shown | None:
    """Return the row as it was before a control was moved, if it is still cached."""
    job = jobs.device_queue().find(key) if key else None
    return job.result if job is not None and job.state is State.DONE else None


def _row(number: int, method: MethodSpec, job: Job, last: Shown | None, view: AggregateView) -> None:
    own: Shown | None = job.result if job.state is State.DONE else last
    layer = resolve(method).layer
    text = subtitle(own.row) if own is not None else layer
    updating = "" if job.ended else f" · :material/hourglass_top: {'waiting' if not job.done else f'{job.done} of {job.total}'}"
    st.markdown(f"**{plain(method.label)}** &nbsp; :gray[{plain(text)}]{updating}")
    if job.ended and job.state is not State.DONE:
        job_status.show_failure(job, small=True)
        return
    grid = st.grid(8, min_column_width=96, gap="small", key=f"a_row_{number}")
    with grid.cell():
        st.image(own.best if own else tiles.blank((SIDE, SIDE)), width="stretch", alt=f"Examples of the best maps of {method}")
        st.caption("best", text_alignment="center")
    chosen = st.session_state.a_bin or ("", None, None)
    for place, name in enumerate(bin_names()):
        with grid.cell():
            picture = own.bins[place] if own else None
            size = own.row.aggregate.sizes[place] if own else 0
            st.image(picture or tiles.blank((SIDE, SIDE)), width="stretch", alt=f"{method} at {layer}: mean map of {name}, {size} items")
            st.button(
                name,
                key=f"a_bin_{number}_{place}",
                on_click=_choose,
                args=(str(method), place),
                type="primary" if chosen[:2] == (str(method), place) else "secondary",
                disabled=not size,
                width="stretch",
                help=f"Show the {size} maps" if size else "Too few items to fill this bin",
            )
    with grid.cell():
        st.image(own.worst if own else tiles.blank((SIDE, SIDE)), width="stretch", alt=f"Examples of the worst maps of {method}")
        st.caption("worst", text_alignment="center")


def _choose(method: str, place: int) -> None:
    st.session_state.a_bin, st.session_state.a_page = (method, place, None), 0


def _pick(done: Sequence[Shown]) -> None:
    """Apply a click on a point: show all items of its row, on the page that contains the item."""
    points = st.session_state.a_boxes.selection.points
    if points:
        number, position = points[-1]["customdata"]
        row = done[number].row
        if position in row.aggregate.order:
            st.session_state.a_bin = (str(row.method), None, position)
            st.session_state.a_page = row.aggregate.order.index(position) // PAGE


def _boxes(done: list[Shown], setting: ProtocolSpec) -> None:
    protocol = create(setting)
    scores = [Scores(s.row.method.label, resolve(s.row.method).layer, s.row.values) for s in done]
    perfect = protocol.bounds[1 if protocol.higher_is_better else 0]
    st.plotly_chart(
        boxes(scores, protocol.title, protocol.chance_level, perfect if abs(perfect) < float("inf") else None),
        key="a_boxes",
        on_select=partial(_pick, done),
        selection_mode="points",
        config=camera(f"{setting.name}-by-layer"),
        alt=f"Box plots of {protocol.title} by layer. The means are above: {'; '.join(f'{s.row.method} {s.row.summary.mean:.2f}' for s in done)}",
    )
    points = "Click a point to see its image and its neighbours in rank." if shows_points(scores) else ""
    st.caption(
        f"{plain(protocol.title)}: {plain(protocol.reading)} Boxes show quartiles; whiskers extend to 1.5 times the interquartile range. {points}"
    )


def _panel(done: list[Shown], view: AggregateView) -> bytes:
    return encode(panel([s.line for s in done], view_of(view)), "PNG")


def _bin_images(found: Found, done: dict[MethodSpec, Shown], view: AggregateView) -> bool:
    """Show the images of the chosen bin, sorted and paged; return whether they are pending."""
    state = st.session_state
    if state.a_bin is None:
        return False
    name, place, chosen = state.a_bin
    own = next((s for method, s in done.items() if str(method) == name), None)
    if own is None:
        return False
    members = own.row.aggregate.order if place is None else own.row.aggregate.members(place)
    which = f"all {len(members)}" if place is None else f"bin {plain(bin_names()[place])}: {len(members)} of {len(own.row.aggregate.order)}"
    st.markdown(f"##### {plain(own.row.method.label)} at {plain(resolve(own.row.method).layer)}, {which}, best first")
    shown = page_of(len(members), PAGE, "a_page", "Better", "Worse")
    job = row_jobs.tiles_job(found, own.row, members[shown], view)
    waiting = not job.ended
    if not waiting and job.state is not State.DONE:
        job_status.show_failure(job)
        return False
    pictures: list[Tile | None] = [None] * len(members[shown]) if waiting else job.result
    grid = st.grid(min_column_width=165, gap="small", key="a_images")
    for rank, (position, tile) in enumerate(zip(members[shown], pictures, strict=True), shown.start + 1):
        with grid.cell():
            _bin_image(rank, float(own.row.aggregate.scores[position]), tile, marked=position == chosen)
    return waiting


def _bin_image(rank: int, score: float, tile: Tile | None, marked: bool) -> None:
    """Show one item of a bin with its score: its tile, or a blank one if it is pending (None) or cannot be read."""
    picture, names, defect = (tile.picture, ", ".join(tile.names), tile.defect) if tile else (b"", "", "")
    st.image(
        picture or tiles.blank((SIDE, SIDE)), width="stretch", alt=f"Map number {rank} of the bin, score {score:.3f}. {names or defect}"
    )
    mark = ":material/ads_click: " if marked else ""
    text = f":material/block: {sentence(defect)}" if defect else plain(names)
    st.caption(f"{mark}**{score:.3f}** {text}", help="The point that was clicked" if mark else None)
