"""The images of a retraining: at the size to train on, with the rank of every pixel under each method, and with pixels replaced."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import chunked
from attrlib.engine.memory import rows_within
from attrlib.errors import DataError, LayerError, MethodError, OutOfMemory, ProtocolError
from attrlib.methods import BATCH_SIZE, instance
from attrlib.postprocess import apply_sign, are_finite, resize
from attrlib.protocols import Batch, ExplanationRequest, Prediction
from attrlib.protocols.deletion import deletion_of
from attrlib.retraining.plan import RoarPlan
from attrlib.specs import MethodSpec
from attrlib.specs.roar import DATA_MEAN

REFUSED = (MethodError, LayerError, ProtocolError, OutOfMemory)
"""Errors that leave out a method."""


@dataclass
class RoarImages:
    """The images of a retraining.

    Attributes:
        images: Normalised images at the size to train on, (N,C,h,w).
        labels: Class of each, (N,).
        ids: Content digest of each.
        tests: Whether each is an image to test on, (N,).
        ranks: Rank of every pixel of each image under a method, (N,h*w), from 0 for the most relevant one.
        refused: The methods that turned out not to be defined, with the reason.
        unreadable: Why images could not be read.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    tests: Tensor
    ranks: Mapping[MethodSpec, Tensor] = field(default_factory=dict)
    refused: Mapping[MethodSpec, str] = field(default_factory=dict)
    unreadable: Sequence[str] = ()


def load_images(plan: RoarPlan, methods: Sequence[MethodSpec], heartbeat: Callable[[str, float], None]) -> RoarImages:
    """Load the images of a plan, and rank their pixels under some methods, whose maps are read from the store or computed.

    Args:
        plan: The plan.
        methods: The methods, resolved.
        heartbeat: Called every few passes with what is being computed and the share done; raises `Cancelled` to stop.

    Raises:
        DataError: If the images that can be read are of fewer than two classes, or none is left to train or to test on.
    """
    return _Loading(plan, methods, heartbeat).load()


class _Loading:
    """The state of loading."""

    def __init__(self, plan: RoarPlan, methods: Sequence[MethodSpec], heartbeat: Callable[[str, float], None]):
        self.plan, self.heartbeat = plan, heartbeat
        self.ranks: dict[MethodSpec, list[Tensor]] = {method: [] for method in methods}
        self.broken = dict.fromkeys(methods, 0)
        self.refused: dict[MethodSpec, str] = {}
        self.doing, self.share = "loading images", 0.0
        rows = rows_within(plan.model, plan.max_memory)
        self.evaluator: Evaluator = plan.evaluator.with_rows(rows).reporting_to(lambda _done, _total: heartbeat(self.doing, self.share))

    def load(self) -> RoarImages:
        items = [*self.plan.train, *self.plan.test]
        chunks = chunked(items, BATCH_SIZE)
        tests = set(self.plan.test)
        images, labels, ids, testing = [], [], list[str](), list[bool]()
        loader = self.evaluator.loader(self.plan.data)
        with loader.prefetch(chunks):
            for number, chunk in enumerate(chunks):
                self.doing, self.share = "loading images", number / len(chunks)
                self.heartbeat(self.doing, self.share)
                readable, batch = loader.get(chunk)
                if batch is None:
                    continue
                images.append(F.adaptive_avg_pool2d(batch.images.cpu(), self.plan.size))
                labels.append(batch.labels)
                ids += batch.ids
                testing += [item in tests for item in readable]
                self._rank(batch)
        for method, count in self.broken.items():
            if count and method not in self.refused:
                self.refused[method] = f"{count} of {len(ids)} maps have NaN or infinite values, by which pixels cannot be ranked"
        found = RoarImages(
            torch.cat(images) if images else torch.empty(0), torch.cat(labels) if labels else torch.empty(0, dtype=torch.long), tuple(ids),
            torch.tensor(testing, dtype=torch.bool), {m: torch.cat(parts) for m, parts in self.ranks.items() if m not in self.refused and parts},
            self.refused, tuple(loader.unreadable.values()),
        )  # fmt: skip
        if len(found.labels[~found.tests].unique()) < 2 or not bool(found.tests.any()):
            reason = next(iter(found.unreadable), "")
            raise DataError(f"too few images of {self.plan.data.name} can be read to train and test on: {reason}")
        return found

    def _rank(self, batch: Batch) -> None:
        methods = [method for method in self.ranks if method not in self.refused]
        if not methods:
            return
        plan = self.plan
        targets = self.evaluator.measure(Prediction(), batch)["class"].long()
        if plan.targets:
            targets = torch.tensor(plan.targets)[batch.labels]
        request = ExplanationRequest(plan.model, batch.images, targets[:, None], keys=batch.ids)
        for position, method in enumerate(methods):
            self.doing = f"maps of {plan.methods[method]}"
            self.heartbeat(self.doing, self.share)
            try:
                maps, _layer = self.evaluator.explainer(method, self._together(method, methods[position + 1 :]))(request)
            except REFUSED as error:
                self.refused[method] = str(error)
                continue
            maps = resize(maps.cpu(), plan.model.input_size)
            self.broken[method] += int((~are_finite(maps)).sum())
            self.ranks[method].append(ranks_of(maps, plan.spec.sign, plan.size))

    def _together(self, method: MethodSpec, others: Sequence[MethodSpec]) -> list[MethodSpec]:
        """Return the methods that may share passes with a method: same layer and number of passes."""
        layer = self.plan.model.layer(method.layer)
        passes = instance(method).passes(layer)
        return [other for other in others if other.layer == method.layer and instance(other).passes(layer) == passes]


def ranks_of(maps: Tensor, sign: str, size: tuple[int, int]) -> Tensor:
    """Return the rank of every pixel (N,h*w), from 0 for the most relevant one; equal values rank in reading order.

    The attribution of a pixel is the mean over the block of the image that it stands for.

    Args:
        maps: Maps (N,1,H,W) at the size of the images.
        sign: `signed`, `positive` or `absolute`.
        size: Height h and width w of the images to train on.
    """
    values = F.adaptive_avg_pool2d(apply_sign(maps.double(), sign), size).flatten(1)
    order = values.argsort(dim=1, descending=True, stable=True)
    dtype = torch.int16 if values.shape[1] < 2**15 else torch.int32
    places = torch.arange(values.shape[1], dtype=dtype).expand_as(order)
    return torch.empty_like(order, dtype=dtype).scatter_(1, order, places)


def replaced_pixels(ranks: Tensor, share: float, keep: bool) -> Tensor:
    """Return booleans (N,h*w): the most relevant share of the pixels or, with `keep`, the least relevant share.

    The pixels that `keep` leaves at a share s are those that are replaced without it at the share 1 - s.

    Args:
        ranks: Ranks (N,h*w) of `ranks_of`.
        share: Share of the pixels.
        keep: Whether to keep the most relevant pixels.
    """
    pixels = ranks.shape[1]
    count = round(share * pixels)
    return ranks >= pixels - count if keep else ranks < count


def with_replaced(
    images: RoarImages, plan: RoarPlan, method: MethodSpec, share: float, keep: bool, check: Callable[[], None] = lambda: None
) -> Tensor:
    """Return the images with a share of their pixels replaced by the baseline, (N,C,h,w).

    Args:
        images: The images.
        plan: The plan, whose spec names the baseline.
        method: The method that ranks the pixels.
        share: Share of the pixels.
        keep: Whether to replace the least relevant pixels.
        check: Called every few images; raises `Cancelled` to stop.
    """
    mask = replaced_pixels(images.ranks[method], share, keep).view(-1, 1, *plan.size)
    if plan.spec.baseline == DATA_MEAN:
        mean = images.images[~images.tests].double().mean((0, 2, 3)).float()
        return torch.where(mask, mean[:, None, None], images.images)
    parts = []
    for first in range(0, len(mask), BATCH_SIZE):
        check()
        rows = slice(first, first + BATCH_SIZE)
        batch = Batch(images.ids[rows], images.images[rows], images.labels[rows])
        parts.append(deletion_of(plan.spec.baseline, plan.evaluator.context, batch)(mask[rows]))
    return torch.cat(parts)
