"""Train a network from random weights on images in memory, the same on every machine with one kind of processor, and test it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.errors import ModelError, TrainingError
from attrlib.models import Classifier, load_model, with_classes
from attrlib.models.modules.preserve import exact
from attrlib.specs import digest
from attrlib.training.optimisation import lr_at, optimizer_of
from attrlib.training.recipe import Recipe

ROWS = 64
"""Images in one pass of a test. It is fixed, so that the result does not depend on the machine."""


def untrained(net: str, classes: int, size: tuple[int, int], channels: int, seed: int, device: str) -> Classifier:
    """Return a network with random weights for some classes.

    Args:
        net: Name of its architecture.
        classes: Number of classes.
        size: Height and width of its input in pixels.
        channels: Number of channels of its input.
        seed: Seed of the weights.
        device: Name of a torch device.

    Raises:
        ModelError: The architecture does not exist, or does not read images of this size or number of channels.
    """
    model = load_model(net, device, checkpoint=f"random:{seed}", input_size=size)
    if model.channels != channels:
        raise ModelError(
            f"the network to train, {net}, reads {model.channels} channel(s), but the images have {channels}; choose a network that reads "
            "as many"
        )
    return with_classes(model, [f"class {k}" for k in range(classes)], None, seed)


def fit(model: Classifier, images: Tensor, labels: Tensor, recipe: Recipe, check: Callable[[], None] = lambda: None) -> None:
    """Train a model's module in place on normalised images.

    The recipe's crops and deletions are for picture files, and are not used. The result depends on the images, the recipe and the weights
    at the beginning, not on the number of threads or on what else the process computes.

    Args:
        model: The model.
        images: Normalised images (N,C,H,W).
        labels: Class of each image, (N,).
        recipe: Settings of the training.
        check: Called before every step; raises `Cancelled` to stop.

    Raises:
        TrainingError: The loss is not finite.
    """
    module, device = model.module, model.device
    optimizer = optimizer_of(module.parameters(), recipe)
    count = max(1, len(images) // recipe.batch)
    module.train()
    with exact(), one_thread():
        for epoch in range(recipe.epochs):
            generator = torch.Generator().manual_seed(int(digest(recipe.seed, "order", epoch)[:15], 16))
            order = torch.randperm(len(images), generator=generator)
            for step in range(count):
                check()
                rows = order[step * recipe.batch : (step + 1) * recipe.batch]
                batch = images[rows]
                if recipe.flip:
                    mirrored = torch.rand(len(rows), generator=generator) < 0.5
                    batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
                number = epoch * count + step
                for group in optimizer.param_groups:
                    group["lr"] = lr_at(recipe, number, count * recipe.epochs)
                with _seeded(device, recipe.seed, number):
                    logits = model.outputs.logits(module(model.place(batch)))
                loss = F.cross_entropy(logits.float(), labels[rows].to(device), label_smoothing=recipe.label_smoothing)
                if not math.isfinite(float(loss.detach())):
                    raise TrainingError(f"the loss is {float(loss.detach())} in epoch {epoch + 1}; try a lower lr (now {recipe.lr:g})")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip:
                    nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
                optimizer.step()
    module.eval()


def count_correct(model: Classifier, images: Tensor, labels: Tensor) -> int:
    """Return the number of normalised images (N,C,H,W) whose class (N,) the model predicts."""
    with one_thread(), model.session(), torch.no_grad():
        predicted = [model.logits(model.place(part)).argmax(1).cpu() for part in images.split(ROWS)]
    return int((torch.cat(predicted) == labels).sum())


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the context: sums of several threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _seeded(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Make random numbers that a module draws, as for dropout, depend only on the seed and the step."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(digest(seed, "module", step)[:15], 16))
        yield
