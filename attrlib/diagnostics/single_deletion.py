"""Single deletion on one picture: the output drop of each deleted cell, and the attribution sum of each cell."""

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
    """The target's outputs for a picture and with each of `grid` x `grid` cells deleted: (1, 1 + grid * grid) by name."""

    model: Classifier
    batch: Batch
    grid: int
    baseline: str
    outputs: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that picture and outputs take."""
        return self.batch.images.nbytes + sum(values.nbytes for values in self.outputs.values())


@dataclass(frozen=True, eq=False)
class CellScore:
    """Drops and sums (grid * grid) row by row, their rank correlation (NaN where undefined), and the score's name."""

    name: str
    drops: Tensor
    sums: Tensor
    correlation: float


def cell_outputs(
    model: Classifier, photo: Photo, target: int, grid: int = 4, baseline: str = "zeros", seed: int = 0, progress: Progress = no_progress
) -> CellOutputs:
    """What the model says to the picture and to it without each cell: 1 + grid^2 forward passes, the same for every method.

    Raises `ProtocolError` where the model's input cannot be cut into such cells.
    """
    protocol = _protocol(model, grid, baseline)
    protocol.check(model)
    passes = iter(range(1 + grid**2))
    context = EvalContext(model, seed, progress=lambda _done, _total: progress(next(passes), 1 + grid**2))
    batch = Batch((photo.digest,), model.place(model.preprocess(photo.image)[None]), torch.tensor([target]))
    return CellOutputs(model, batch, grid, baseline, protocol.measurements[0].measure(context, batch, batch.labels))


def cell_score(found: CellOutputs, attribution: Attribution, output: str = "logit") -> CellScore:
    """This picture's single deletion score, as the protocol itself computes it (Hesse et al. 2024).

    spearman_i(f(x) - f(x_i), sum of a in cell i), with f the `output` (logit or softmax) of the target, x_i the picture without
    cell i and a the map (1,1,h,w) at the picture's size. It is IDSDS where the model is deletion-tuned, else SDS.
    """
    protocol = _protocol(found.model, found.grid, found.baseline, output)
    layer = found.model.layer(attribution.spec.layer)
    measured = {protocol.measurements[0]: found.outputs}
    work = EvalBatch(EvalContext(found.model), found.batch, found.batch.labels, measured, lambda _request: (attribution.maps, layer))
    outcome = protocol.evaluate(work)[0]
    values = found.outputs[output].double()[0]
    return CellScore(protocol.title, values[0] - values[1:], torch.tensor(outcome.details["sums"], dtype=torch.float64), outcome.value)


def _protocol(model: Classifier, grid: int, baseline: str, output: str = "logit") -> SingleDeletion:
    return (IDSDS if model.deletion_tuned else SDS)(grid=grid, baseline=baseline, output=output)
