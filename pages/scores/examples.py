"""The images that a score consists of: the best, the median and the worst item, each with the map that was judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
import torch
from PIL import Image

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import UNKNOWN, EvalItem
from attrlib.engine.jobs import Job, Priority, State
from attrlib.engine.results import Score
from attrlib.engine.selection import class_map
from attrlib.errors import ImageError
from attrlib.figures.numbers import number
from attrlib.figures.overlay import draw, encode, limit, prepare
from attrlib.methods import resolve
from attrlib.models import Classifier
from attrlib.postprocess import defect
from attrlib.progress import NewsProgress
from attrlib.protocols import ExplanationRequest
from attrlib.specs import ViewSpec, digest
from attrlib.store import open_store
from pages.shared import jobs
from pages.shared.run_jobs import Finished
from pages.shared.tiles import head

VIEW = ViewSpec()


@dataclass(frozen=True)
class Seen:
    """An item as it was judged: the encoded picture and map overlay, the explained class, and why the map is invalid, if it is."""

    name: str
    picture: bytes
    overlay: bytes
    target: str
    defect: str | None

    @property
    def nbytes(self) -> int:
        """Return the size of both pictures in bytes."""
        return len(self.picture) + len(self.overlay)


def places(score: Score, chosen: int | None = None) -> list[tuple[str, int]]:
    """Return the items to show with their labels: the chosen one first, then best, median and worst, and an undefined one."""
    values = score.values
    order = [int(i) for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    order = order[::-1] if score.protocol.higher_is_better else order
    named = {"Best": order[:1], "Median": order[len(order) // 2 :][:1], "Worst": order[-1:]}
    named["Undefined"] = [int(i) for i in np.flatnonzero(~np.isfinite(values))[:1]]
    first = [("Chosen", chosen)] if chosen is not None and chosen < len(values) else []
    return [*first, *((what, own[0]) for what, own in named.items() if own)]


def show(finished: Finished, score: Score, chosen: int | None) -> bool:
    """Show the items on a grid that wraps; return whether any of them is pending."""
    loading = jobs.model_job(score.spec.model, score.spec.deletion_tuned)
    waiting = False
    grid = st.grid(min_column_width=145, gap="small", key="behind")
    for what, place in places(score, chosen):
        with grid.cell():
            value = score.values[place]
            shown = "undefined" if np.isnan(value) else number(value)
            job = _job(finished, score, place, loading.result) if loading.state is State.DONE else loading
            waiting |= not job.ended
            _tile(f"{what} {shown}", job)
    return waiting


def _tile(title: str, job: Job) -> None:
    seen: Any = job.result if job.state is State.DONE and isinstance(job.result, Seen) else None
    head(title, seen.target if seen else "…")
    if seen is not None:
        st.image(seen.picture, width="stretch", alt=f"{title}: the picture, {seen.name}")
        st.image(seen.overlay, width="stretch", alt=f"{title}: the map over the picture, for {seen.target}")
        st.caption(f":material/block: {seen.defect}" if seen.defect else jobs.plain(seen.name))
    elif job.ended:
        st.caption(f":material/block: {jobs.sentence(job.error or 'It was cancelled.')}")
        st.button("Try again", key=f"again-{job.key}", on_click=job.forget, type="tertiary", icon=":material/refresh:")
    else:
        st.image(_blank(), width="stretch", alt="Not ready yet")
        st.image(_blank(), width="stretch", alt="Not ready yet")


@st.cache_data(show_spinner=False)
def _blank() -> bytes:
    return encode(Image.new("RGBA", (64, 64), (128, 132, 138, 40)), "PNG")


def _job(finished: Finished, score: Score, place: int, model: Classifier) -> Job:
    key = digest("behind", finished.run_key, score.spec, score.ids[place])
    return jobs.device_queue().submit(
        key, lambda on_progress: look(finished.data, score, place, model, on_progress), jobs.PATIENCE, priority=Priority.QUICK
    )


def look(data: Dataset, score: Score, place: int, model: Classifier, on_progress: NewsProgress) -> Seen:
    """Return one item with the first map that the protocol requested, from the store or recomputed in the same way."""
    spec, protocol = score.spec, score.protocol
    images = score.items[place]
    evaluator = Evaluator(model, open_store(), spec.seed, spec.fast, on_progress=on_progress)
    loader = evaluator.loader(data, [protocol])
    _, batch = loader.get((EvalItem(score.ids[place], images, _labels(data, score, images, model)),))
    if batch is None:
        raise ImageError(next(iter(loader.unreadable.values())))
    explain = evaluator.explainer(resolve(score.method))
    request = protocol.requests(evaluator.eval_batch(protocol, batch, explain))[0]
    return _draw(score.names(data)[place], request, explain(request)[0], model)


def _labels(data: Dataset, score: Score, images: Sequence[int], model: Classifier) -> tuple[int, ...]:
    own = [data.label(i) for i in images]
    if score.protocol.target_choice != "label":
        return (UNKNOWN,) * len(images)
    classes = class_map(score.spec, model, data)
    return tuple(UNKNOWN if label is None else classes[label] for label in own)


def _draw(name: str, request: ExplanationRequest, maps: torch.Tensor, model: Classifier) -> Seen:
    size = (request.images.shape[2], request.images.shape[3])
    colours = model.preprocessing.denormalise(request.images[0].float().cpu()).clamp(0, 1)
    picture = Image.fromarray((colours * 255).round().byte().permute(1, 2, 0).numpy())
    large = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.BICUBIC) if max(size) < 300 else picture
    values = prepare(maps[:1, :1].float().cpu(), VIEW, size)[0, 0]
    overlay = draw(values, large, VIEW, limit([values], VIEW.clip))
    target = model.class_names[int(request.targets[0, 0])].split(",")[0]
    return Seen(name, encode(large), encode(overlay), target, defect(maps[0, :1].cpu()))
