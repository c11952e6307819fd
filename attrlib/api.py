"""Public functions `explain`, `score` and `compare`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.data.datasets import load_dataset
from attrlib.data.images import Photo
from attrlib.data.maps import keep_array
from attrlib.data.pictures import open_image
from attrlib.engine.executors.choice import executors
from attrlib.engine.memory import rows_within
from attrlib.engine.plan import make_plan
from attrlib.engine.results import RunResult, Score
from attrlib.engine.run import RunListener, run
from attrlib.errors import ImageError, SpecError, unknown
from attrlib.methods import BATCH_SIZE, Attribution, AttributionOptions, attribute, read_method, read_methods
from attrlib.models import Classifier
from attrlib.progress import Progress, no_listener, no_progress
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec, TargetSpec, options_of
from attrlib.specs.codec import documented
from attrlib.specs.maps import maps_spec
from attrlib.store import Store, open_store

Picture = Photo | Image.Image | np.ndarray | str | Path
Images = Picture | Iterable[Picture] | Tensor
Maps = str | Path | np.ndarray | Tensor
"""Maps made elsewhere: a path, or an array."""
_ONE = (Photo, Image.Image, np.ndarray, str, Path)
RUN_OPTIONS = tuple(p for p in options_of(RunSpec) if p.name != "deletion_tuned")
"""Keyword arguments of `score` and `compare`. Whether the model was tuned on deleted patches is read from the model."""


def explain(
    model: Classifier,
    images: Images,
    method: str | MethodSpec,
    target: int | str | Iterable[int | str] | None = None,
    layer: str | None = None,
    *,
    method_target: str | TargetSpec | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    max_memory: int | None = None,
    on_progress: Progress = no_progress,
    **params: object,
) -> Attribution:
    """Compute attribution maps of images with one method.

    Args:
        model: The model to explain.
        images: One or several images (PIL image, NumPy array, path or `sample:NAME`), or a normalised tensor (C,H,W) or (B,C,H,W) at the
            model's input size or another size that the model accepts.
        method: A name, or its text form with layer and parameters, such as `IG@Final:steps=20`; or a preset of one method, `Finer-CAM`.
        target: Class index or name, one for all images or one per image. None selects the predicted class.
        layer: Layer to explain at. Overrides the layer in `method`.
        method_target: What is explained of the class, such as `probability` or `contrast:k=3`. Overrides the target in `method`.
        seed: Seed of methods that draw random numbers.
        batch_size: Maximum number of rows per pass through the model.
        max_memory: Memory budget in bytes, which may reduce the number of rows; by default half of the free memory.
        on_progress: Progress callback.
        **params: Parameters of the method. They override those in `method`.

    Returns:
        Signed maps (B,1,h,w) at the resolution of the layer.

    Raises:
        AttrlibError: If the images, method, layer, target or parameters are not valid. The message says what to do.

    Example:
        >>> import attrlib
        >>> model = attrlib.load_model("birds_resnet10", device="cpu")
        >>> attribution = attrlib.explain(model, "sample:cat", "Grad-CAM", target=0)
        >>> attribution.maps.ndim, attribution.target
        (4, (0,))
    """
    spec = method if isinstance(method, MethodSpec) else read_method(str(method))
    explained = TargetSpec.parse(method_target) if isinstance(method_target, str) else method_target or spec.target
    spec = MethodSpec(spec.name, layer or spec.layer, tuple((spec.values | params).items()), explained)  # type: ignore[arg-type]
    batch = as_batch(model, images)
    area = batch.shape[2] * batch.shape[3] / (model.input_size[0] * model.input_size[1])
    rows = min(batch_size, max(1, int(rows_within(model, max_memory, area) / area)))
    options = AttributionOptions(seed, rows, on_progress=on_progress)
    return attribute(model, spec, batch, _targets(model, target, len(batch)), options)


@documented(RUN_OPTIONS)
def score(
    protocol: str | ProtocolSpec,
    model: Classifier,
    method: str | MethodSpec | None = None,
    data: Any = None,
    *,
    maps: Maps | None = None,
    layer: str | None = None,
    max_memory: int | None = None,
    filter_models: Iterable[Classifier] = (),
    store: Store | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    on_progress: RunListener = no_listener,
    **options: Any,
) -> Score:
    """Score a method under a protocol, item by item. Cached results are not computed again.

    Args:
        protocol: A name, or its text form with parameters, or a spec.
        model: The model to explain.
        method: A name, or its text form with layer and parameters, or a spec. None to score `maps`.
        data: A data set, or any source that `load_dataset` takes.
        maps: Maps made elsewhere, to be scored in place of a method: the path of a .npy, .npz or HDF5 file, of a Zarr folder, or of a folder
            of .npy files; or an array (N,h,w) or (N,C,h,w), of which a copy is kept in the folder of the store. They are matched to the images by name, or by place if they have no names.
        layer: Layer for a `method` in text form that names none.
        max_memory: Memory budget in bytes; by default half of the free memory.
        filter_models: Grids use only images that these models also classify confidently, so that all models can be scored on the
            same grids.
        store: Store of results; by default that of `open_store`.
        workers: Number of worker processes, one for each GPU or sharing the cores, or of actors of the cluster; by default this process.
        cluster: `ray`, `ray://HOST:PORT` or `ray://auto`, to compute on Ray; see "Several workers" in the guide to scores.
        on_progress: Progress callback for the events of the run; raises `Cancelled` to stop it.
        **options: Options of the run (listed below), and parameters of the protocol.

    Returns:
        The score with the value of every item.

    Raises:
        AttrlibError: If an argument is not valid, or the method or protocol is not defined. The message says what to do.

    Example:
        >>> import attrlib
        >>> model = attrlib.load_model("birds_resnet10", device="cpu")
        >>> result = attrlib.score("sds", model, "IxG", "birds", limit=4)
        >>> len(result.values), -1 <= result.mean <= 1
        (4, True)
    """
    if (method is None) == (maps is None):
        raise SpecError("score judges either a method or maps made elsewhere; give method or maps=, and not both")
    protocol_spec = protocol if isinstance(protocol, ProtocolSpec) else ProtocolSpec.parse(str(protocol))
    run_options = {p.name: options.pop(p.name) for p in RUN_OPTIONS if p.name in options}
    protocol_spec = ProtocolSpec(protocol_spec.name, tuple((protocol_spec.values | options).items()))
    methods = [] if method is None else [read_method(method, layer or "") if isinstance(method, str) else method]
    result = compare(
        [protocol_spec], model, methods, data, maps=[] if maps is None else [maps], max_memory=max_memory, filter_models=filter_models, store=store,
        workers=workers, cluster=cluster, on_progress=on_progress, **run_options,
    )  # fmt: skip
    return next(iter(result.scores.values()))


@documented(RUN_OPTIONS)
def compare(
    protocols: Iterable[str | ProtocolSpec],
    model: Classifier,
    methods: Iterable[str | MethodSpec] = (),
    data: Any = None,
    *,
    maps: Maps | Iterable[Maps] = (),
    max_memory: int | None = None,
    filter_models: Iterable[Classifier] = (),
    store: Store | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    on_progress: RunListener = no_listener,
    **options: Any,
) -> RunResult:
    """Score several methods under several protocols on the same items, and rank the methods as far as the data allow.

    Args:
        protocols: Names, text forms with parameters, or specs.
        model: The model to explain.
        methods: Specs, their text forms, names of presets (`idsds`, `rao`, `erdem`, `finer-cam`), or `all`.
        data: A data set, or any source that `load_dataset` takes.
        maps: Files or folders of maps made elsewhere, as in `score`; they are scored beside the methods.
        max_memory: As in `score`.
        filter_models: As in `score`.
        store: As in `score`.
        workers: As in `score`.
        cluster: As in `score`.
        on_progress: As in `score`.
        **options: Options of the run, listed below.

    Returns:
        The scores by protocol and method, with the range of possible ranks of each method.

    Raises:
        AttrlibError: As in `score`.

    Example:
        >>> import attrlib
        >>> model = attrlib.load_model("birds_resnet10", device="cpu")
        >>> result = attrlib.compare(["sds"], model, ["IxG", "Grad-CAM"], "birds", limit=4)
        >>> len(result.scores)
        2
    """
    for name in options:
        if name not in {p.name for p in RUN_OPTIONS}:
            raise SpecError(unknown("option of a run", name, [p.name for p in RUN_OPTIONS]))
    if data is None:
        raise SpecError("no data given; pass a data set, its name, or the path of a folder")
    dataset, others = load_dataset(data), tuple(filter_models)
    store = store or open_store()
    foreign = [maps] if isinstance(maps, Maps) else list(maps)
    paths = [each if isinstance(each, str | Path) else keep_array(each, store.folder) for each in foreign]
    spec = RunSpec(
        model.spec,
        dataset.source,
        tuple(p if isinstance(p, ProtocolSpec) else ProtocolSpec.parse(str(p)) for p in protocols),
        (
            *(spec for m in methods for spec in ((m,) if isinstance(m, MethodSpec) else read_methods(str(m)))),
            *dict.fromkeys(map(maps_spec, paths)),
        ),
        deletion_tuned=model.deletion_tuned,
        filter_models=tuple(other.spec for other in others),
        **options,
    )
    plan = make_plan(spec, model, dataset, store, filter_models=others, max_memory=max_memory)
    # Workers of a cluster use its GPUs unless this machine has one that the model is not on.
    device = "cpu" if model.device.type == "cpu" and torch.cuda.is_available() else "auto"
    with executors(workers, cluster, device) as executor:
        return run(plan, on_progress, executor)


def as_batch(model: Classifier, images: Images) -> Tensor:
    """Return normalised images (B,C,H,W) from any input that `explain` accepts. Raises `ImageError` for other inputs."""
    if isinstance(images, Tensor):
        batch = images[None] if images.ndim == 3 else images
        if batch.ndim != 4 or batch.shape[1] != model.channels or not len(batch):
            shape = f"(B,{model.channels},H,W)"
            raise ImageError(f"a tensor of shape {tuple(images.shape)} is not a batch of images; pass a normalised tensor {shape}")
        if not batch.is_floating_point():
            raise ImageError(f"a tensor of {batch.dtype} is not a batch of normalised images; pass floats, as returned by model.preprocess")
        return batch
    if isinstance(images, bytes) or not isinstance(images, Iterable | Photo | Image.Image | Path):
        raise ImageError(f"a {type(images).__name__} is not an image; pass a PIL image, an array, a path, sample:NAME, or a list of these")
    pictures = [images] if isinstance(images, _ONE) else list(images)
    if not pictures:
        raise ImageError("no images given; pass at least one")
    for p in pictures:
        if not isinstance(p, _ONE):
            raise ImageError(
                f"a {type(p).__name__} is not an image; pass a PIL image, an array, a path or sample:NAME, or one tensor (B,C,H,W)"
            )
    return torch.stack([model.preprocess(p if isinstance(p, Photo) else open_image(p)) for p in pictures])


def _targets(model: Classifier, target: int | str | Iterable[int | str] | None, count: int) -> list[int] | None:
    if target is None:
        return None
    if isinstance(target, Tensor | np.ndarray | np.generic):
        target = target.tolist()
    entries = [target] * count if isinstance(target, int | str) else target
    targets = [model.target(int(t) if isinstance(t, Tensor) else t) for t in entries]
    if len(targets) != count:
        raise SpecError(f"{len(targets)} targets for {count} images; pass one for all images, or one per image")
    return targets
