"""Explain one image by several methods, and export the maps: panel, arrays and a manifest to reproduce them."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from attrlib.data.images import Photo
from attrlib.engine.memory import rows_within
from attrlib.errors import SpecError, existing_file
from attrlib.figures.numbers import json_value
from attrlib.figures.overlay import encode, prepare
from attrlib.figures.panel import Tile, panel
from attrlib.methods import Attribution, AttributionOptions, attribute_all, resolve
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import LOGIT, NUMERICS, ExplainSpec, MethodSpec, ViewSpec
from attrlib.targets import short as short_target

PANEL, ARRAYS, MANIFEST = "panel.png", "maps.npz", "manifest.json"
_MAX_MANIFEST = 1 << 20


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one photo by the methods of a spec, in the order of the spec."""

    spec: ExplainSpec
    model: Classifier
    photo: Photo
    attributions: Sequence[Attribution]

    @property
    def target(self) -> int:
        """Return the explained class."""
        return self.attributions[0].target[0]

    def tiles(self) -> list[Tile]:
        """Return the tile of each map in the panel."""
        titles = titles_of([a.spec for a in self.attributions])
        return [replace(tile(a, self.spec.view), title=title) for a, title in zip(self.attributions, titles, strict=True)]

    def files(self) -> dict[str, bytes]:
        """Return panel, arrays and manifest by file name; the bytes are the same for the same spec, weights, image and machine."""
        photo = self.model.preprocessing.view(self.photo, scale=2)
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
    spec: ExplainSpec, model: Classifier, photo: Photo, on_progress: Progress = no_progress, max_memory: int | None = None
) -> Explanation:
    """Run all methods of a spec on one photo.

    If a method is not defined for the model, its error is raised before any method runs.

    Args:
        spec: Methods, target, seed and view.
        model: The classifier.
        photo: The photo.
        on_progress: The progress callback.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
    """
    methods = list(dict.fromkeys(resolve(m) for m in spec.methods))
    images = model.preprocess(photo)[None]
    targets = None if spec.target is None else [model.target(spec.target)]
    options = AttributionOptions(spec.seed, rows_within(model, max_memory), on_progress=on_progress)
    return Explanation(spec, model, photo, attribute_all(model, methods, images, targets, options))


def titles_of(methods: Sequence[MethodSpec]) -> list[str]:
    """Return the names of resolved methods, with targets other than the logit, and the parameters in which alike methods differ."""
    titles = []
    for method in methods:
        same = [other.values for other in methods if (other.name, other.layer, other.target) == (method.name, method.layer, method.target)]
        differing = [name for name in method.values if len({values[name] for values in same}) > 1]
        target = [] if method.target.name == LOGIT else [f"of {short_target(method.target)}"]
        titles.append(" ".join([method.name, *(f"{name}={method.values[name]}" for name in differing), *target]))
    return titles


def tile(attribution: Attribution, view: ViewSpec) -> Tile:
    """Return the tile of the first map, titled with method, layer and resolution."""
    height, width = attribution.maps.shape[2:]
    values = prepare(attribution.maps, view, attribution.input_size)[0, 0]
    return Tile(attribution.spec.name, f"{attribution.spec.layer} {height}×{width}", values, attribution.defects[0])


def read_manifest(path: str | Path) -> dict:
    """Read and check a manifest.

    Args:
        path: Path of the `manifest.json`.

    Returns:
        The content of the manifest, with `spec` as an `ExplainSpec`.

    Raises:
        SpecError: If there is no such file, or it is not a manifest of explain.
    """
    file = existing_file(path)
    if file is None:
        raise SpecError(f"manifest {str(path)[:200]!r} does not exist; pass a manifest.json written by `attrlib explain`")
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
            f"{file.name} is not a manifest of `attrlib explain` ({type(error).__name__}: {str(error)[:80]}); pass a manifest.json that it wrote"
        ) from None


def check_same(manifest: Mapping, model: Classifier, photo: Photo) -> None:
    """Raise an error unless weights, image and numerics are those of a manifest, since its maps could not be reproduced.

    Args:
        manifest: The manifest; see `read_manifest`.
        model: The classifier.
        photo: The photo.

    Raises:
        SpecError: If weights, image or numerics differ.
    """
    if manifest["numerics"] != NUMERICS:
        raise SpecError(
            f"the manifest has numerics version {manifest['numerics']}, this attrlib has {NUMERICS}; install the version of attrlib that wrote it"
        )
    if manifest["model_digest"] != model.digest:
        raise SpecError(f"the weights of {model.name} differ from those of the manifest; load the same model or checkpoint")
    if manifest["image_digest"] != photo.digest:
        raise SpecError(f"{photo.name} differs from the image of the manifest; pass the same file with --image")


def _arrays(attributions: Sequence[Attribution]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{str(a.spec): a.maps[0, 0].numpy() for a in attributions})  # type: ignore[arg-type]
    return file.getvalue()


def first(diagnostics: Mapping[str, tuple[float, ...]]) -> dict[str, float | None]:
    """Return the diagnostics of the first image, with None for values that are not finite, since JSON has no NaN."""
    return {name: json_value(values[0]) for name, values in diagnostics.items()}
