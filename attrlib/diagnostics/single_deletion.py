"""Compute single deletion on one image: the output drop and the attribution sum of each patch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.methods import Attribution
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, EvalBatch, EvalContext
from attrlib.protocols.deletion import IDSDS, SDS, SingleDeletion


@dataclass(frozen=True, eq=False)
class CellOutputs:
    """The target's outputs for an image, and with each of its patches deleted.

    Attributes:
        model: The classifier.
        batch: The image and its target.
        grid: Patches per side.
        baseline: What replaces a deleted patch, in normalised space.
        outputs: Outputs by name, (1, 1 + grid * grid) each.
    """

    model: Classifier
    batch: Batch
    grid: int
    baseline: str
    outputs: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the image and the outputs."""
        return self.batch.images.nbytes + sum(values.nbytes for values in self.outputs.values())


@dataclass(frozen=True, eq=False)
class CellScore:
    """The single deletion score of one image.

    Attributes:
        name: Name of the score.
        drops: Output drop of each patch, row by row, (grid * grid).
        sums: Attribution sum of each patch, row by row, (grid * grid).
        correlation: Rank correlation of drops and sums, NaN where undefined.
    """

    name: str
    drops: Tensor
    sums: Tensor
    correlation: float


def cell_outputs(
    model: Classifier, photo: Photo, target: int, grid: int = 4, baseline: str = "zeros", seed: int = 0, on_progress: Progress = no_progress
) -> CellOutputs:
    """Return the model's outputs for an image, and with each patch deleted.

    They need 1 + grid^2 forward passes and do not depend on the method.

    Args:
        model: The classifier.
        photo: The image.
        target: The target class.
        grid: Patches per side.
        baseline: What replaces a deleted patch, in normalised space.
        seed: Seed of a random baseline.
        on_progress: The progress callback.

    Raises:
        ProtocolError: If the grid does not divide the model's input.
    """
    protocol = _protocol(model, grid, baseline)
    protocol.check(model)
    passes = iter(range(1 + grid**2))
    context = EvalContext(model, seed, on_progress=lambda _done, _total: on_progress(next(passes), 1 + grid**2))
    batch = Batch((photo.digest,), model.place(model.preprocess(photo)[None]), torch.tensor([target]))
    return CellOutputs(model, batch, grid, baseline, protocol.measurements[0].measure(context, batch, batch.labels))


def cell_score(outputs: CellOutputs, attribution: Attribution, output: str = "logit") -> CellScore:
    """Return the single deletion score of an image, as the protocol computes it (Hesse et al. 2024).

    The score is spearman_i(f(x) - f(x_i), sum of a in patch i), with f the output of the target, x_i the image without patch i and
    a the map at the image's size. It is IDSDS if the model is deletion-tuned, else SDS.

    Args:
        outputs: The outputs; see `cell_outputs`.
        attribution: The map, (1,1,h,w).
        output: The output whose drop counts: `logit` or `probability`.
    """
    protocol = _protocol(outputs.model, outputs.grid, outputs.baseline, output)
    layer = outputs.model.layer(attribution.spec.layer)
    measured = {protocol.measurements[0]: outputs.outputs}
    work = EvalBatch(EvalContext(outputs.model), outputs.batch, outputs.batch.labels, measured, lambda _request: (attribution.maps, layer))
    outcome = protocol.evaluate(work)[0]
    values = outputs.outputs[output].double()[0]
    return CellScore(protocol.title, values[0] - values[1:], torch.tensor(outcome.details["sums"], dtype=torch.float64), outcome.value)


def _protocol(model: Classifier, grid: int, baseline: str, output: str = "logit") -> SingleDeletion:
    return (IDSDS if model.deletion_tuned else SDS)(grid=grid, baseline=baseline, output=output)
