"""Draw every method's map of the same bird for the reference: `python -m docs._build.pictures`.

A method that is not defined for the first model is drawn on the first of the others for which it is.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

import attrlib
from attrlib.engine.montage import Shown, explain_all
from attrlib.errors import AttrlibError
from attrlib.figures.overlay import draw, limit, prepare
from attrlib.specs import MethodSpec, ViewSpec
from docs._build.registered import MAPS, methods, slug

PICTURE = "birds:test/7"
MODELS = ("birds_resnet18", "birds_vit6", "birds_bagnet33", "birds_bcos_resnet18")
SIDE, COLOURS = 160, 48


def save(picture: Image.Image, path: Path) -> None:
    """Save a small picture as a PNG with a palette."""
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def tile(shown: Shown, photo: Image.Image, view: ViewSpec) -> Image.Image:
    """Draw one map over the photo.

    Raises:
        AttrlibError: If the method is not defined for any of the models.
    """
    if isinstance(shown.result, AttrlibError):
        raise shown.result
    prepared = prepare(shown.result.maps, view, shown.model.input_size)
    large = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return draw(prepared[0, 0], large, view, limit([prepared], view.clip))


def main() -> None:
    """Draw the pictures, and list the model of each in `maps.json`."""
    parser = argparse.ArgumentParser(prog="python -m docs._build.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=MAPS, help="folder to write to")
    parser.add_argument("--methods", help="methods to draw, by commas; the other pictures stay")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.methods.split(",") if args.methods else [info.name for info in methods()]
    models = [attrlib.load_model(name, "cpu") for name in MODELS]
    photo, view = attrlib.open_image(PICTURE), ViewSpec()
    index = args.out / "maps.json"
    drawn: dict[str, str] = json.loads(index.read_text("utf-8")) if index.is_file() else {}
    seen = models[0].preprocessing.view(photo.image)
    save(seen, args.out / "bird.png")
    for shown in explain_all(models, photo, [MethodSpec(name) for name in names]):
        save(tile(shown, seen, view), args.out / f"{slug(shown.method.name)}.png")
        drawn[shown.method.name] = shown.model.name
    ordered = {info.name: drawn[info.name] for info in methods() if info.name in drawn}
    index.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
