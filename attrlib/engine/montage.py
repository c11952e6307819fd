"""Draw the maps of one photo by all methods as one image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from attrlib.data.images import Photo
from attrlib.engine.explain import tile, titles_of
from attrlib.errors import AttrlibError
from attrlib.figures.panel import Tile, panel
from attrlib.methods import METHODS, Attribution, AttributionOptions, attribute_each, resolve
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec, ViewSpec, parse_methods

SIDE, COLUMNS = 184, 8


@dataclass(frozen=True)
class Shown:
    """A method of the montage, with the model that it explains.

    Attributes:
        method: The method.
        model: The model that is explained.
        result: The maps, or the error if the method is not defined for any of the models.
    """

    method: MethodSpec
    model: Classifier
    result: Attribution | AttrlibError


def all_methods(text: str) -> tuple[MethodSpec, ...]:
    """Parse methods in text form, where `all` stands for every method that is not listed with its own settings.

    Raises:
        MethodError: If a method is unknown.
        SpecError: If the text or a setting is not valid.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    named = [part for part in parts if part != "all"]
    explicit = parse_methods(",".join(named)) if named or not parts else ()
    for method in explicit:
        resolve(method)
    if len(named) == len(parts):
        return explicit
    expanded = {name: [m for m in explicit if m.name == name] or [MethodSpec(name)] for name in METHODS}
    return tuple(method for methods in expanded.values() for method in methods)


def explain_all(
    models: Sequence[Classifier], photo: Photo, methods: Sequence[MethodSpec], seed: int = 0, on_progress: Progress = no_progress
) -> list[Shown]:
    """Run every method on the first model for which it is defined, for the class that this model predicts.

    Args:
        models: The models, in order of preference.
        photo: The photo.
        methods: The methods.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Returns:
        The maps or errors, in the order of `methods`.
    """
    shown: dict[MethodSpec, Shown] = {}
    options = AttributionOptions(seed, on_progress=on_progress)
    for model in models:
        left = [m for m in methods if m not in shown or isinstance(shown[m].result, AttrlibError)]
        if not left:
            break
        images = model.preprocess(photo)[None]
        with torch.no_grad():
            target = int(model.outputs.predicted(model(images)))
        for method, result in zip(left, attribute_each(model, left, images, [target], options), strict=True):
            if method not in shown or isinstance(result, Attribution):
                shown[method] = Shown(method, model, result)
    return [shown[m] for m in methods]


def draw_montage(models: Sequence[Classifier], photo: Photo, shown: Sequence[Shown], view: ViewSpec) -> Image.Image:
    """Draw the photo as the first model sees it, and a tile for every method, in 256 colours.

    Args:
        models: The models.
        photo: The photo.
        shown: The maps; see `explain_all`.
        view: How maps are drawn.
    """
    picture = models[0].preprocessing.view(photo)
    picture = picture.resize((SIDE, round(SIDE * picture.height / picture.width)), Image.Resampling.LANCZOS)
    classes = [
        one.model.class_names[one.result.target[0]] for one in shown if isinstance(one.result, Attribution) and one.model is models[0]
    ]
    title = classes[0].split(",")[0] if classes else ""
    names = titles_of([resolve(one.method) for one in shown])
    tiles = [replace(_tile(one, models[0], view), title=name) for one, name in zip(shown, names, strict=True)]
    return panel(picture, title, tiles, view, COLUMNS).quantize(256, dither=Image.Dither.NONE)


def _tile(one: Shown, first: Classifier, view: ViewSpec) -> Tile:
    if isinstance(one.result, AttrlibError):
        return Tile(one.method.name, "not defined here", torch.zeros(1, 1), str(one.result))
    shown_tile = tile(one.result, view)
    return shown_tile if one.model is first else replace(shown_tile, subtitle=f"{one.result.spec.layer}, {one.model.name}")
