"""Example items of a score: the best, the median and the worst one, each with the map that was judged."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.foreign import explainer, resolved
from attrlib.engine.items import EvalItem
from attrlib.engine.results import Score
from attrlib.errors import ImageError
from attrlib.figures.overlay import draw, encode, limit, prepare
from attrlib.models import Classifier
from attrlib.postprocess import defect
from attrlib.progress import NewsProgress
from attrlib.protocols import ExplanationRequest
from attrlib.specs import ViewSpec
from attrlib.store import Store

VIEW = ViewSpec()
SMALL = 300
"""Side in pixels below which pictures are shown at twice their size."""


class ExampleItem(NamedTuple):
    """An item of a score: why it is shown, and its place in the score's values."""

    label: str
    place: int


def examples_of(score: Score, chosen: int | None = None) -> list[ExampleItem]:
    """Return the items to show: the chosen one, the best, the median, the worst, and an undefined one.

    Items are ordered by their values (n,); undefined ones are left out of this order. The median is the item in the middle, for an even
    number the worse of both.

    Args:
        score: The score.
        chosen: Place of an item to show first; ignored if there is no such item.

    Returns:
        The examples; those that do not exist are left out, for example `Undefined` if all values are finite.
    """
    values = score.values
    order = [int(i) for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    order = order[::-1] if score.protocol.higher_is_better else order
    named = {"Best": order[:1], "Median": order[len(order) // 2 :][:1], "Worst": order[-1:]}
    named["Undefined"] = [int(i) for i in np.flatnonzero(~np.isfinite(values))[:1]]
    first = [ExampleItem("Chosen", chosen)] if chosen is not None and chosen < len(values) else []
    return [*first, *(ExampleItem(label, places[0]) for label, places in named.items() if places)]


@dataclass(frozen=True)
class JudgedItem:
    """An item as a protocol judged it.

    Attributes:
        name: Name of the item in the data set.
        picture: The encoded picture.
        overlay: The encoded picture with the map over it.
        target: Name of the explained class.
        defect: Why the map is invalid, None if it is valid.
    """

    name: str
    picture: bytes
    overlay: bytes
    target: str
    defect: str | None

    @property
    def nbytes(self) -> int:
        """Return the size of both pictures in bytes."""
        return len(self.picture) + len(self.overlay)


def judged_item(data: Dataset, score: Score, place: int, model: Classifier, store: Store, on_progress: NewsProgress) -> JudgedItem:
    """Return one item with the first map that the protocol requested, from the store or recomputed in the same way.

    Args:
        data: The data set of the run.
        score: The score.
        place: Place of the item in the score's values.
        model: The model of the run.
        store: Where maps are looked up and kept.
        on_progress: Called as the work advances; raises `Cancelled` to stop it.

    Raises:
        ImageError: If the image cannot be read any more.
    """
    spec, protocol = score.spec, score.protocol
    evaluator = Evaluator(model, store, spec.seed, spec.fast, on_progress=on_progress)
    loader = evaluator.loader(data, [protocol])
    item = EvalItem(score.ids[place], score.items[place], score.labels[place])
    _, batch = loader.get((item,))
    if batch is None:
        raise ImageError(next(iter(loader.unreadable.values())))
    explain = explainer(evaluator, resolved(score.method, data), [item], data)
    request = protocol.requests(evaluator.eval_batch(protocol, batch, explain))[0]
    return _draw(score.names(data)[place], request, explain(request)[0], model)


def _draw(name: str, request: ExplanationRequest, maps: torch.Tensor, model: Classifier) -> JudgedItem:
    size = (request.images.shape[2], request.images.shape[3])
    colours = model.preprocessing.shown(request.images[0].float().cpu())
    picture = Image.fromarray((colours * 255).round().byte().permute(1, 2, 0).numpy())
    large = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.BICUBIC) if max(size) < SMALL else picture
    values = prepare(maps[:1, :1].float().cpu(), VIEW, size)[0, 0]
    overlay = draw(values, large, VIEW, limit([values], VIEW.clip))
    target = model.class_names[int(request.targets[0, 0])].split(",")[0]
    return JudgedItem(name, encode(large), encode(overlay), target, defect(maps[0, :1].cpu()))
