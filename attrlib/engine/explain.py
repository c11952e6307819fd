"""One picture, several methods: the maps, and the files to take away (panel, arrays, a manifest that repeats them)."""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from attrlib.data.images import Photo
from attrlib.engine.memory import rows_within
from attrlib.errors import SpecError, existing_file
from attrlib.figures.overlay import encode, prepare
from attrlib.figures.panel import Tile, panel
from attrlib.methods import Attribution, attribute_all, resolve
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import NUMERICS, ExplainSpec, MethodSpec, ViewSpec, digest

PANEL, ARRAYS, MANIFEST = "panel.png", "maps.npz", "manifest.json"
_MAX_MANIFEST = 1 << 20


def map_key(model_digest: str, image_digest: str, method: MethodSpec, target: int | None, seed: int) -> str:
    """The content digest under which a map is kept: weights, picture, method with parameters and layer, target, seed, numerics."""
    return digest(model_digest, image_digest, resolve(method), target, seed, NUMERICS)


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one photo by the methods of a spec, in its order."""

    spec: ExplainSpec
    model: Classifier
    photo: Photo
    attributions: Sequence[Attribution]

    @property
    def target(self) -> int:
        """The explained class."""
        return self.attributions[0].target[0]

    def tiles(self) -> list[Tile]:
        """What the panel shows of each map."""
        return [tile(a, self.spec.view) for a in self.attributions]

    def files(self) -> dict[str, bytes]:
        """Panel, arrays and manifest; the same bytes for the same spec, weights, picture and machine."""
        photo = self.model.preprocessing.view(self.photo.image, scale=2)
        title = self.model.class_names[self.target].split(",")[0]
        files = {PANEL: encode(panel(photo, title, self.tiles(), self.spec.view), "PNG"), ARRAYS: _arrays(self.attributions)}
        manifest = {
            "kind": "explain",
            "numerics": NUMERICS,
            "torch": torch.__version__,
            "device": self.model.device.type,
            "spec": asdict(self.spec),
            "target": {"index": self.target, "name": self.model.class_names[self.target]},
            "model_digest": self.model.digest,
            "image_digest": self.photo.digest,
            "maps": {
                str(a.spec): {"shape": list(a.maps.shape[2:]), "defect": a.defects[0], **first(a.diagnostics)} for a in self.attributions
            },
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        return files | {MANIFEST: json.dumps(manifest, indent=1).encode()}


def explain_photo(
    spec: ExplainSpec, model: Classifier, photo: Photo, progress: Progress = no_progress, max_memory: int | None = None
) -> Explanation:
    """Runs every method of the spec, all together, within `max_memory` bytes, by default half of what is free.

    One that is not defined for the model raises before any other runs.
    """
    methods = list(dict.fromkeys(resolve(m) for m in spec.methods))
    images = model.preprocess(photo.image)[None]
    targets = None if spec.target is None else [model.target(spec.target)]
    return Explanation(
        spec, model, photo, attribute_all(model, methods, images, targets, spec.seed, rows_within(model, max_memory), progress)
    )


def tile(attribution: Attribution, view: ViewSpec) -> Tile:
    """The first map as it is shown: titled by method, layer and resolution."""
    height, width = attribution.maps.shape[2:]
    values = prepare(attribution.maps, view, attribution.input_size)[0, 0]
    return Tile(attribution.spec.name, f"{attribution.spec.layer} {height}×{width}", values, attribution.defects[0])


def read_manifest(path: str | Path) -> dict:
    """A manifest's content, checked. Raises `SpecError`."""
    file = existing_file(path)
    if file is None:
        raise SpecError(f"there is no manifest {str(path)[:200]!r}; give the manifest.json that explain wrote")
    try:
        if file.stat().st_size > _MAX_MANIFEST:
            raise ValueError("too large")
        content = json.loads(file.read_bytes())
        if content["kind"] != "explain":
            raise ValueError("not written by explain")
        missing = {"numerics", "model_digest", "image_digest", "files"} - set(content)
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))}")
        incomplete = {field.name for field in fields(ExplainSpec)} - set(content["spec"])
        if incomplete:
            raise ValueError(f"no {', '.join(sorted(incomplete))}")
        spec = ExplainSpec.from_json(content["spec"])
        if not spec.methods:
            raise ValueError("no methods")
        return content | {"spec": spec}
    except (SpecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SpecError(
            f"{file.name} is not a manifest of explain ({type(error).__name__}: {str(error)[:80]}); give the file that it wrote"
        ) from None


def check_same(manifest: Mapping, model: Classifier, photo: Photo) -> None:
    """Raises `SpecError` where weights, picture or numerics are not those of the manifest: nothing could be repeated."""
    if manifest["numerics"] != NUMERICS:
        raise SpecError(f"the manifest was written with numerics {manifest['numerics']}, this is {NUMERICS}; use that version of attrlib")
    if manifest["model_digest"] != model.digest:
        raise SpecError(f"the weights of {model.name} are not those of the manifest; give the same model or checkpoint")
    if manifest["image_digest"] != photo.digest:
        raise SpecError(f"{photo.name} is not the picture of the manifest; give the same file with --image")


def _arrays(attributions: Sequence[Attribution]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{str(a.spec): a.maps[0, 0].numpy() for a in attributions})  # type: ignore[arg-type]
    return file.getvalue()


def first(diagnostics: Mapping[str, tuple[float, ...]]) -> dict[str, float | None]:
    """The diagnostics of the first picture; what is not finite is None, since JSON knows no NaN."""
    return {name: values[0] if math.isfinite(values[0]) else None for name, values in diagnostics.items()}
