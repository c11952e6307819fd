"""A custom grid: chosen photos in its cells, with every method's map and score at once."""

import streamlit as st
from PIL import Image

from attrlib.aggregation.panels import view_of
from attrlib.aggregation.view import tiled
from attrlib.data.images import KINDS, Photo, open_photo
from attrlib.data.pictures import NAMES, open_image, title
from attrlib.data.samples import PREFIX, SAMPLES
from attrlib.diagnostics.localisation_grid import map_grid
from attrlib.engine.jobs import Job, Priority, State
from attrlib.errors import AttrlibError
from attrlib.figures.aggatt import Sample, draw_sample, outlined
from attrlib.figures.overlay import encode
from attrlib.methods import METHODS, resolve
from attrlib.models import Classifier
from attrlib.progress import NewsProgress
from attrlib.protocols import create
from attrlib.protocols.localisation import Localisation
from attrlib.specs import AggregateView, MethodSpec, RunSpec, digest
from attrlib.store import open_store
from pages.shared import job_status, jobs, notices, pickers, tiles
from pages.shared.classes import readings
from pages.shared.jobs import plain

FIRST = ("cat", "coffee", "motorcycle", "astronaut")
MAX_UPLOADS = 9
SIDE = 360


def show(run: RunSpec, view: AggregateView) -> bool:
    """Show photo choosers for the cells, the target, and a tile for each method; return whether any map is pending."""
    protocol = create(run.protocols[0])
    if not isinstance(protocol, Localisation):
        st.info("Custom grids need GridPG, DiFull or DiPart. Choose one of them as the setting.", icon=":material/arrow_upward:")
        return False
    model = job_status.wait_for(jobs.model_job(run.model), f"Loading {run.model}")
    photos = _choose_photos(protocol.grid)
    if model is None or photos is None:
        return False
    n = protocol.grid
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        cell = st.segmented_control(
            "Target cell", range(n * n), format_func=lambda k: str(k + 1), default=0, key=f"a_own_cell_{n}", persist_state="session", required=True,
            help="The outlined grid cell; numbered row by row. All positive attribution to its class should lie inside.",
        )  # fmt: skip
        target = _choose_target(model, photos[cell])
    if target is None:
        return False
    map_jobs = {method: _job(model, photos, run, cell, target, method) for method in run.methods}
    waiting = any(not job.ended for job in map_jobs.values())
    _tiles(model, photos, map_jobs, cell, n, view)
    return waiting


def _choose_photos(n: int) -> list[Photo] | None:
    state = st.session_state
    uploads: dict[str, Photo] = state.setdefault("a_uploads", {})
    names = [*NAMES, *uploads]
    with st.container(width=560):
        grid = st.grid(n, min_column_width=120, gap="small", key="a_own_cells")
    chosen = []
    for k in range(n * n):
        with grid.cell():
            if state.get(f"a_own_{k}") not in names:
                state[f"a_own_{k}"] = f"{PREFIX}{(*FIRST, *SAMPLES)[k % (len(FIRST) + len(SAMPLES))]}"
            chosen.append(
                st.selectbox(f"Cell {k + 1}", names, format_func=title, key=f"a_own_{k}", persist_state="session")
            )  # fmt: skip
    with st.popover("Upload photos", icon=":material/upload:"):
        label = f"{KINDS}, up to {pickers.PHOTO_MB} MB each"
        st.file_uploader(label, key="a_own_files", accept_multiple_files=True, on_change=_take, max_upload_size=pickers.PHOTO_MB)
        st.caption("Photos stay in the memory of this session.")
    try:
        return [uploads[name] if name in uploads else open_image(name) for name in chosen]
    except AttrlibError as error:
        notices.error(error)
        return None


def _take() -> None:
    state = st.session_state
    for file in state.a_own_files or []:
        try:
            photo = open_photo(file.getvalue(), file.name[:80])
        except AttrlibError as error:
            state.a_problems = [*state.a_problems, str(error)]
            continue
        state.a_uploads = dict([*state.a_uploads.items(), (photo.name, photo)][-MAX_UPLOADS:])


def _choose_target(model: Classifier, photo: Photo) -> int | None:
    """Return the chosen class, one of the most probable classes of the cell's photo on its own."""
    values = job_status.wait_for(jobs.prediction_job(model, photo), "Running the model")
    if values is None:
        return None
    labels = {index: f"{each.name} {each.text}" for index, each in readings(model, values).items()}
    return st.selectbox(
        "Class", list(labels), format_func=labels.__getitem__, key=f"a_own_target_{photo.digest}", width=260,
        help="The class to explain, one of the most probable classes of the photo in the target cell.",
    )  # fmt: skip


def _job(model: Classifier, photos: list[Photo], run: RunSpec, cell: int, target: int, method: MethodSpec) -> Job:
    """Return the job that computes the map of one method on the grid."""

    def make(on_progress: NewsProgress) -> object:
        return map_grid(model, photos, run.protocols[0], cell, target, method, open_store(), run.seed, on_progress)

    stamp = jobs.stamp(run.model)
    key = digest("own grid", run.model, stamp, [p.digest for p in photos], run.protocols[0], cell, target, resolve(method), run.seed)
    return jobs.device_queue().submit(key, make, jobs.PATIENCE, priority=Priority.QUICK if METHODS[method.name].fast else Priority.NORMAL)


def _tiles(model: Classifier, photos: list[Photo], map_jobs: dict[MethodSpec, Job], cell: int, n: int, view: AggregateView) -> None:
    picture = tiled([model.preprocessing.view(photo) for photo in photos])
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    grid = st.grid(min_column_width=165, gap="small", key="a_own_tiles")
    with grid.cell():
        st.markdown("**Grid**  \n:gray[as the model sees it]")
        st.image(encode(outlined(small.copy(), cell, n)), width="stretch", alt=f"The grid of {n * n} photos, cell {cell + 1} outlined")
    for method, job in map_jobs.items():
        with grid.cell():
            st.markdown(f"**{plain(method.label)}**  \n:gray[{plain(resolve(method).layer)}]")
            if job.state is State.DONE:
                values, score = job.result.shown(view)
                st.image(
                    encode(draw_sample(Sample(small, values, score), view_of(view), cell, n, SIDE)),
                    width="stretch",
                    alt=f"{method} over the grid, localisation {score:.3f}",
                )
                st.caption(f"localisation **{score:.3f}** ↑ (chance {1 / n**2:.2f})")
            else:
                st.image(tiles.blank((SIDE, SIDE)), width="stretch", alt="No map yet")
                job_status.waits_for(job, small=True)
