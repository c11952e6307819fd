"""Train the shipped models in `assets/models`: `python -m attrlib.training.family --photos FOLDER`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.derived import Kept
from attrlib.errors import unknown
from attrlib.models.cards import ASSETS
from attrlib.specs import ModelSpec
from attrlib.training.finetune import Training, train_checkpoint
from attrlib.training.recipe import PRESETS, Recipe
from attrlib.training.train import TrainingProgress

TUNED = "_tuned"
"""Suffix of a deletion-tuned model, after the name of the plain model that it was fine-tuned from."""
BIRDS = {
    "birds_resnet10": "small_resnet10_w16",
    "birds_resnet18": "small_resnet18_w16",
    "birds_resnet26": "small_resnet26_w16",
    "birds_narrow_resnet18": "small_resnet18_w10",
    "birds_fixup_resnet18": "small_fixup_resnet18_w16",
    "birds_x_resnet18": "small_x_resnet18_w16",
    "birds_vgg11": "small_vgg11_w16",
    "birds_vgg11_bn": "small_vgg11_bn_w16",
    "birds_x_vgg11": "small_x_vgg11_w16",
    "birds_vit6": "small_vit6_w64",
    "birds_bcos_resnet18": "small_bcos_resnet18_w16",
    "birds_bagnet33": "small_bagnet33_w16",
}
PHOTOS = {"imagenette_resnet18": "small_resnet18_w16", "imagenette_bagnet33": "small_bagnet33_w16"}
"""Models trained on photos from random weights, without a deletion-tuned version."""
TROJANED = {"birds_resnet18_trojaned": "birds_resnet18"}
"""Models of birds that were fine-tuned on birds with a trigger, and the plain models that they start from."""
LITE0 = "imagenette_efficientnet_lite0"

_PLAIN = replace(PRESETS["scratch"], epochs=3, fraction=0.4)
_ADAM = replace(_PLAIN, optimizer="adamw", lr=0.002, weight_decay=0.0)
_CAREFUL = replace(_ADAM, epochs=8, clip=1.0)
"""Longer training with clipped gradients, because no BatchNorm keeps the activations in range."""
RECIPES: dict[str, Recipe] = {
    "birds_fixup_resnet18": _CAREFUL,
    "birds_x_resnet18": _CAREFUL,
    "birds_vgg11_bn": _ADAM,
    "birds_vgg11": replace(_CAREFUL, epochs=6),
    "birds_x_vgg11": replace(_CAREFUL, epochs=6),
    "birds_vit6": replace(_ADAM, lr=0.001, weight_decay=0.05, epochs=10, fraction=0.5),
    "birds_bcos_resnet18": _ADAM,
    "birds_bagnet33": replace(_PLAIN, fraction=0.3, epochs=4),
    "imagenette_resnet18": replace(_PLAIN, epochs=12, fraction=1.0, scale=0.35),
    "imagenette_bagnet33": replace(_PLAIN, epochs=16, fraction=1.0, scale=0.35),
    LITE0: replace(PRESETS["short"], epochs=1, batch=64, lr=0.005, scale=0.35, fraction=0.5),
}
"""Recipes of the plain models that do not use the common one."""


def trainings(photos: str, folder: Path) -> dict[str, Training]:
    """Return the training of every shipped model by name.

    Args:
        photos: Folder of Imagenette, with `train` and `val`.
        folder: Folder of the plain models, from which deletion-tuned ones start.
    """
    result = {}
    for name, architecture in (BIRDS | PHOTOS | {LITE0: ""}).items():
        recipe = replace(RECIPES.get(name, _PLAIN), deletion=0)
        data = ("birds:train", "birds:select", "birds:test") if name in BIRDS else (f"{photos}/train", None, f"{photos}/val")
        start = ModelSpec(f"attrlib:{architecture}", "random:0") if architecture else ModelSpec("efficientnet_lite0")
        if name in PHOTOS:
            result[name] = Training(start, data[0], recipe, data[1], data[2])
            continue
        result[name] = Training(start, data[0], recipe, data[1], data[2], name + TUNED)
        tuned = replace(recipe, epochs=min(recipe.epochs, max(2, recipe.epochs // 2)), lr=recipe.lr / 5, warmup=0.0, deletion=4)
        tuned = replace(tuned, optimizer="sgd" if tuned.optimizer == "nesterov" else tuned.optimizer)
        begin = replace(start, checkpoint=str(folder / f"{name}.safetensors"))
        result[name + TUNED] = Training(begin, data[0], tuned, data[1], data[2], name)
    for name, plain in TROJANED.items():
        # Whole pictures, since a random crop may lose the trigger that the label stands for.
        recipe = replace(RECIPES.get(plain, _PLAIN), epochs=3, lr=RECIPES.get(plain, _PLAIN).lr / 5, scale=1.0)
        start = replace(result[plain].model, checkpoint=str(folder / f"{plain}.safetensors"))
        result[name] = Training(start, "birds-trojaned:train", recipe, "birds-trojaned:select", "birds:test")
    return result


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models to train; by default all that are missing.")] = None,
    photos: Annotated[str, typer.Option("--photos", help="Folder of Imagenette, with train and val.")] = "imagenette2-320",
    out: Annotated[Path, typer.Option("--out", help="Folder to write the models to.")] = ASSETS,
    state: Annotated[Path, typer.Option("--state", help="Folder of the saved training states.")] = Path("training"),
) -> None:
    """Train the shipped models. An interrupted training resumes when the same command is run again."""
    family = trainings(photos, out)
    for name in names or [name for name in family if not (out / f"{name}.json").is_file()]:
        if name not in family:
            raise typer.BadParameter(unknown("model", name, family))
        training = family[name]
        for source in (training.data, training.select, training.report):
            if source is not None and source not in _data:
                _data[source] = Kept(load_dataset(source))
                # Cards name the data set, not its location on this machine.
                _data[source].name = source.replace(photos, "imagenette")
        card = train_checkpoint(training, out / f"{name}.safetensors", state / name, on_progress=_Lines(name), datasets=_data)
        typer.echo(
            f"{name}: clean {card.accuracy['clean']['mean']:.3f}, deleted {card.accuracy['deleted']['mean']:.3f}, {card.seconds:.0f} s"
        )


_data: dict[str, Dataset] = {}
"""Decoded data sets, shared by all trainings."""


class _Lines:
    """Print the progress of a training every half minute."""

    def __init__(self, name: str):
        self.name, self.last = name, time.monotonic()

    def __call__(self, progress: TrainingProgress) -> None:
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            typer.echo(
                f"{self.name}: step {progress.step} of {progress.steps}, loss {progress.loss:.3f}, clean {progress.clean}, deleted {progress.deleted}, {progress.seconds_left:.0f} s left"
            )


if __name__ == "__main__":
    typer.run(main)
