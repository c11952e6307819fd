"""The training loop: resumable after every epoch, with the best epoch selected on data that no score is computed on."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.data.datasets import Dataset
from attrlib.errors import ImageError, SpecError, TrainingError
from attrlib.models import Classifier
from attrlib.models.architectures import BcosNetwork
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.progress import Listener, no_listener
from attrlib.specs import digest
from attrlib.training.accuracy import accuracies, check_labelled
from attrlib.training.deletion import delete_patches
from attrlib.training.loader import TrainLoader
from attrlib.training.optimisation import lr_at, optimizer_of
from attrlib.training.recipe import Recipe

CHANGEABLE = ("lr", "warmup", "clip", "amp")
"""Settings that may change when training resumes, because they help after a divergence."""


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a training.

    Attributes:
        epoch: The current epoch, from 1.
        step: Steps done.
        steps: Steps of the whole training.
        loss: Mean loss of the current epoch so far.
        seconds_left: Estimated remaining seconds.
        clean: Accuracy on the selection data after the last epoch; None before the first is measured.
        deleted: Accuracy on the selection data with deleted patches; None before the first is measured, or without deletion.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    seconds_left: float | None
    clean: float | None
    deleted: float | None


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        state: Weights of the best epoch.
        epoch: Number of the best epoch, from 1.
        clean: Its accuracy on the selection data.
        deleted: Its accuracy on the selection data with deleted patches; None without deletion.
        seconds: Duration of the training.
        history: Loss and accuracies after each epoch.
        left_out: Why images were left out.
    """

    state: dict[str, Tensor]
    epoch: int
    clean: float
    deleted: float | None
    seconds: float
    history: tuple[dict[str, float], ...]
    left_out: tuple[str, ...] = ()


def train(
    model: Classifier,
    data: Dataset,
    classes: Sequence[int],
    select: Dataset,
    select_classes: Sequence[int],
    recipe: Recipe,
    folder: Path,
    on_progress: Listener[TrainingProgress] = no_listener,
) -> Trained:
    """Train a model's module in place.

    The best epoch has the highest mean of the accuracies on `select`: clean and, if the recipe deletes patches, with deleted
    patches. The state is saved after every epoch: the same call resumes from there, with the same result as without an
    interruption. Under `torchrun`, each process takes its share of each batch.

    Args:
        model: The classifier to train.
        data: The data to train on.
        classes: The model's class for each class of `data`.
        select: The data that selects the best epoch.
        select_classes: The model's class for each class of `select`.
        recipe: Settings of the training.
        folder: Folder of the saved state.
        on_progress: Progress callback.

    Raises:
        TrainingError: The loss or a weight is not finite, or the state cannot be read or written.
        DataError: No image has a label.
        ImageError: None of the training images can be read.
        SpecError: The recipe combines label smoothing with the binary loss.
    """
    return _Trainer(model, data, classes, select, select_classes, recipe, folder, on_progress).train()


class _Trainer:
    def __init__(
        self,
        model: Classifier,
        data: Dataset,
        classes: Sequence[int],
        select: Dataset,
        select_classes: Sequence[int],
        recipe: Recipe,
        folder: Path,
        on_progress: Listener[TrainingProgress],
    ):
        self.model, self.recipe, self.on_progress = model, recipe, on_progress
        self.module, self.device = model.module, model.device
        self.loader = TrainLoader(data, classes, model.preprocessing, recipe, len(model.class_names))
        self.select, self.select_classes = select, select_classes
        self.state_file = folder / "state.pt"
        check_labelled(select)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"the folder {folder} cannot be created ({error.strerror}); choose another folder") from None
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if min(recipe.batch, len(self.loader)) < self.world:
            raise TrainingError(
                f"a batch of {min(recipe.batch, len(self.loader))} is too small for {self.world} processes; start fewer processes, or choose a larger batch"
            )
        self.steps = self.loader.steps * recipe.epochs
        fixed = {name: value for name, value in asdict(recipe).items() if name not in CHANGEABLE}
        self.digest = digest(fixed, model.spec, model.class_names, data.name, len(self.loader), select.name, len(select))
        of_labels = model.outputs.kind in ("sigmoid", "binary")
        self.binary = recipe.loss == "binary" or (recipe.loss == "auto" and (of_labels or isinstance(self.module, BcosNetwork)))
        self.optimizer = optimizer_of(self.module.parameters(), recipe)
        if of_labels and not self.binary:
            raise SpecError("loss=cross-entropy needs exclusive classes, but this model has one logit for each label; choose loss=binary")
        if self.binary and recipe.label_smoothing:
            raise SpecError("label_smoothing is only defined for cross-entropy, not for the binary loss; set it to 0")
        self.amp = recipe.amp and has_bfloat16(self.device)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.seconds, self.first = 0.0, 0
        self.last: TrainingProgress | None = None

    def train(self) -> Trained:
        self._resume()
        if self.world == 1:
            self._epochs(self.module)
        else:
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            # Destroy the wrapper before the group: as the last owner of the group it would hold Python's lock while waiting for a gloo
            # thread that needs the lock.
            self._epochs(nn.parallel.DistributedDataParallel(self.module))
            torch.distributed.destroy_process_group()
        assert self.best is not None, "there is at least one epoch"
        row = self.best["row"]
        self.module.load_state_dict(self.best["state"])
        self.module.eval()
        left_out = tuple(self.loader.failed.values())
        return Trained(self.best["state"], int(row["epoch"]), row["clean"], row.get("deleted"), self.seconds, tuple(self.history), left_out)

    def _epochs(self, wrapped: nn.Module) -> None:
        start = time.perf_counter()
        before = self.seconds
        for epoch in range(self.first, self.recipe.epochs):
            # Random numbers drawn by the module, as in dropout, depend only on the seed, the epoch and the rank.
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(int(digest(self.recipe.seed, "module", epoch, self.rank)[:15], 16))
                self._epoch(wrapped, epoch)
            right = accuracies(
                self.model, self.select, self.select_classes, self.recipe.deletion, self.recipe.baseline, self.amp, self._check
            )
            row = {"epoch": epoch + 1, "loss": self.loss, "clean": right.clean / right.count}
            row |= {} if right.deleted is None else {"deleted": right.deleted / right.count}
            self.history.append(row)
            if self.best is None or _merit(row) > _merit(self.best["row"]):
                state = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}
                self.best = {"row": row, "state": state}
            self.seconds = before + time.perf_counter() - start
            self._save(epoch + 1)

    def _epoch(self, wrapped: nn.Module, epoch: int) -> None:
        self.module.train()
        start, total, seen = time.perf_counter(), 0.0, 0
        for step, (images, labels) in enumerate(self.loader.epoch(epoch, self.rank, self.world)):
            if not len(labels):
                continue
            number = epoch * self.loader.steps + step
            for group in self.optimizer.param_groups:
                group["lr"] = lr_at(self.recipe, number, self.steps)
            loss = self._step(wrapped, images, labels, digest(self.recipe.seed, epoch, step, self.rank))
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", epoch)
            total, seen = total + loss, seen + 1
            if step % 5 == 0:
                per_step = (time.perf_counter() - start) / (step + 1)
                last = self.history[-1] if self.history else {}
                left = per_step * (self.steps - number - 1)
                self.last = TrainingProgress(epoch + 1, number + 1, self.steps, total / seen, left, last.get("clean"), last.get("deleted"))
                self._check()
        if not seen:
            raise ImageError(f"none of the {len(self.loader)} training images can be read: {next(iter(self.loader.failed.values()), '')}")
        if not all(bool(tensor.isfinite().all()) for tensor in self.module.state_dict().values()):
            raise self._diverged("a weight is not finite", epoch)
        self.loss = total / seen

    def _check(self) -> None:
        if self.last is not None:
            self.on_progress(self.last)

    def _diverged(self, cause: str, epoch: int) -> TrainingError:
        saved = f"the state after epoch {epoch} is saved" if epoch else "no epoch was finished"
        return TrainingError(
            f"{cause} in epoch {epoch + 1}; {saved}. Try a lower lr (now {self.recipe.lr:g}), a longer warmup, clip=1, or amp=false"
        )

    def _step(self, wrapped: nn.Module, images: Tensor, labels: Tensor, seed: str) -> float:
        recipe, generator = self.recipe, torch.Generator().manual_seed(int(seed[:15], 16))
        x = self.model.preprocessing.normalise(images.to(self.device).float() / 255).contiguous(memory_format=self.model.memory_format)
        if recipe.deletion:
            x = delete_patches(x, recipe.deletion, recipe.baseline, generator)
        targets = labels.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            logits = self.model.outputs.logits(wrapped(x))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(logits.float(), targets)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
            self.optimizer.step()
        return value

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.binary:
            present = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1])
            return F.binary_cross_entropy_with_logits(logits, present.to(logits))
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)

    def _save(self, epoch: int) -> None:
        """Replace the saved state atomically, so that a killed process leaves either the old or the new one."""
        if self.rank:
            return
        content = {
            "about": self.digest,
            "epoch": epoch,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
        }
        part = self.state_file.with_suffix(".part")
        try:
            torch.save(content, part)
            part.replace(self.state_file)
        except (OSError, RuntimeError) as error:
            # On a full disk torch raises a RuntimeError.
            with suppress(OSError):
                part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or "the disk may be full"
            raise TrainingError(
                f"the state cannot be written to {self.state_file} ({reason}); free disk space and run the same command again"
            ) from None

    def _resume(self) -> None:
        if not self.state_file.is_file():
            return
        try:
            content = torch.load(self.state_file, map_location="cpu", weights_only=True)
            same = content["about"] == self.digest
            if same:
                self.module.load_state_dict(content["module"])
                self.optimizer.load_state_dict(content["optimizer"])
                self.history, self.best, self.seconds, self.first = (content[name] for name in ("history", "best", "seconds", "epoch"))
        except Exception as error:  # noqa: BLE001  a damaged file makes the reader fail in a dozen unrelated ways
            raise TrainingError(f"{self.state_file} is damaged ({type(error).__name__}); delete it to start over") from None
        if not same:
            raise TrainingError(
                f"{self.state_file} belongs to a different training (model, data or recipe); choose another folder, or delete it"
            )


def _merit(row: dict[str, float]) -> float:
    return row["clean"] if "deleted" not in row else (row["clean"] + row["deleted"]) / 2
