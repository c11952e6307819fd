"""Follow targets as a picture fades in: their values, and how steep they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.errors import TargetError
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import TargetSpec
from attrlib.targets import create


@dataclass(frozen=True, eq=False)
class TargetSlopes:
    """Targets of one class along images that fade in from the mean colour.

    Attributes:
        values: Value of each target at each share, (targets, shares).
        slopes: L2 norm of its gradient with respect to the image, (targets, shares).
        less: Classes that each target subtracts; none for a target that is not linear in the logits.
    """

    values: Tensor
    slopes: Tensor
    less: tuple[tuple[int, ...], ...]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the values."""
        return self.values.nbytes + self.slopes.nbytes


def target_slopes(
    model: Classifier,
    photo: Photo,
    target: int,
    specs: Sequence[TargetSpec],
    shares: Sequence[float],
    on_progress: Progress = no_progress,
) -> TargetSlopes:
    """Return values and slopes of targets at the image times each share, in normalised space.

    Args:
        model: The classifier.
        photo: The image.
        target: The explained class.
        specs: The targets, which must be functions of the logits.
        shares: Factors of the normalised image: 0 is the mean colour, 1 the image.
        on_progress: The progress callback.

    Raises:
        TargetError: If a target is not defined for the model or the class, or is not a function of the logits.
    """
    image = model.place(model.preprocess(photo)[None])
    targets = [create(spec) for spec in specs]
    for each in targets:
        each.check(model, model.layer("Input"))
        each.check_class(model, target)
        if each.view(model) is not model:
            raise TargetError(f"{each.name} is not a function of the logits; choose one that is, such as probability")
    with model.session():
        clean = model.logits(image.clone()).detach()
        classes, row = torch.tensor([target], device=model.device), torch.zeros(1, dtype=torch.long, device=model.device)
        readouts = [each.readout(model, classes, lambda: clean) for each in targets]
        values, slopes = torch.zeros(len(specs), len(shares)), torch.zeros(len(specs), len(shares))
        for place, share in enumerate(shares):
            on_progress(place, len(shares))
            faded = (share * image).requires_grad_()
            # Copied, because the module may write into its input.
            logits = model.logits(faded.clone())
            for k, readout in enumerate(readouts):
                value = readout.values(logits, row)
                (gradient,) = torch.autograd.grad(value.sum(), faded, retain_graph=True)
                values[k, place], slopes[k, place] = float(value.detach()), float(gradient.norm())
        less = tuple(
            tuple((readout.slopes(clean, row)[0] < 0).nonzero()[:, 0].tolist()) if each.linear else ()
            for each, readout in zip(targets, readouts, strict=True)
        )
    return TargetSlopes(values, slopes, less)
