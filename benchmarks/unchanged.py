"""Compute digests of all results of the library, to check that a redesign changes none: `python -m benchmarks.unchanged`.

`--out FILE` writes a JSON object of names and digests; `--against FILE` computes the digests again, prints the differences and exits with 1
if there are any. Equal digests mean equal values bit for bit, so both must come from one machine and one build of PyTorch: run `--out` on
the commit before and `--against` on the commit after the redesign. Only public functions and the command line are used, which a redesign
keeps. Timings are not part of a digest; all refusals are equal, whatever the reason.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import attrlib

BIRDS, PHOTOS = ("birds:test/3", "birds:test/11"), ("sample:cat",)
PICTURES = {
    "birds_resnet18": BIRDS,
    "birds_vgg11": BIRDS,
    "birds_vgg11_bn": BIRDS,
    "birds_vit6": BIRDS,
    "birds_bagnet33": BIRDS,
    "birds_bcos_resnet18": BIRDS,
    "imagenette_resnet18": PHOTOS,
    "efficientnet_lite0": PHOTOS,
}
"""Models whose maps are digested, and the pictures that are explained."""
LAYERS = ("Input", "Middle", "Final")
CHEAP = {"steps": 3, "samples": 4, "designs": 2, "cells": 4, "top": 3, "stages": 2, "window": 7, "stride": 5, "confidence": 0}
"""Parameter values, by name, that keep a method or a protocol cheap."""
CHEAP_AT_INPUT = {"window": 32, "stride": 32}
METHOD_VARIANTS = (
    *(f"LRP:rule={rule}:first={first}" for rule in ("epsilon", "alpha1beta0", "alpha2beta1") for first in ("same", "box", "flat")),
    "LRP:epsilon=0.1:channels=abs-sum",
    "IG:steps=3:baseline=uniform:channels=sum-abs",
    "IG:steps=3:baseline=black",
    "DeepLIFT:baseline=blur",
    *(f"{name}:of={of}:samples=3:steps=2" for name in ("SmoothGrad", "SmoothGrad Squared", "VarGrad") for of in ("IxG", "IG")),
    "Score-CAM:weighting=probability:top=3",
    "Guided Grad-CAM:cam=First",
    "LIME:samples=16:cells=4:segments=grid:output=probability:fill=black",
    "KernelSHAP:samples=16:cells=4:segments=grid",
    "HSIC:samples=16:cells=4:masks=rise:output=logit",
    "XRAI:steps=3:segments=grid:channels=max",
    "Extremal perturbation:steps=3:perturbation=fade:areas=2",
    "Chefer:start=2",
)
"""Parameters whose values select another code path of a method."""
PROTOCOL_VARIANTS = (
    "sds:baseline=random:output=probability:sign=absolute",
    "sds:baseline=blur:grid=2:target=prediction:sign=positive:undefined=zero",
    "ids:steps=3:mode=insertion:order=descending:baseline=blur",
    "ids:steps=3:update=true:target=prediction",
    "infidelity:samples=3:normalize=true:noise=0.2",
    "gridpg:confidence=0:smoothing=33",
    "difull:confidence=0:grid=3:smoothing=9",
    "robustness:change=brightness",
    "robustness:change=sharpness:tolerance=1",
    "randomisation:stages=2:absolute=true",
    "parts:output=probability:sign=positive",
)
"""Parameters whose values select another code path of a protocol."""
SCORED = ("IxG", "Grad-CAM", "Grad-CAM@Middle", "SmoothGrad:samples=3", "RISE:samples=6:cells=4:p=0.5", "Random", "Rollout")
STUDIES = {
    "ranking:limit=2:passes=8": "birds_resnet10_tuned",
    "accuracy:limit=2:passes=2": "birds_resnet10_tuned,birds_vgg11_tuned,birds_vit6_tuned",
    "smoothing:limit=2:steps=2:samples=2:confidence=0": "birds_resnet10",
    "robustness:limit=2:passes=2": "birds_resnet10",
    "agreement:limit=3:passes=2:grids=2": "birds_resnet10,birds_resnet10_tuned",
}
"""Small studies, and their models."""
MEMORY = 2**36
"""More memory than any run needs, so that no batch size depends on the free memory of the machine."""


def digest(*values: object) -> str:
    """Return a digest of tensors, arrays, numbers and strings, possibly nested, that changes with every bit."""
    state = hashlib.blake2b(digest_size=12)

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().numpy()
        if isinstance(value, np.ndarray):
            state.update(f"{value.dtype}{value.shape}".encode())
            state.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, float | np.floating):
            state.update(np.float64(value).tobytes())
        elif isinstance(value, Mapping):
            add(list(value.values()))
        elif isinstance(value, list | tuple):
            state.update(f"[{len(value)}".encode())
            for part in value:
                add(part)
        else:
            state.update(repr(value).encode())

    add(values)
    return state.hexdigest()


def cheap(info: Any, at_input: bool) -> str:
    """Return the text form of a registered method or protocol, with the parameters that keep it cheap."""
    values = CHEAP | (CHEAP_AT_INPUT if at_input else {})
    return ":".join([info.name, *(f"{p.name}={values[p.name]}" for p in info.params if p.name in values)])


def or_refused(compute: Callable[[], str]) -> str:
    """Return the result of `compute`, or `refused` if it raises an error of the library."""
    try:
        return compute()
    except attrlib.AttrlibError:
        return "refused"


def maps(model: Any, pictures: Sequence[str], spec: str, target: int | None = None) -> str:
    """Return the digest of a method's maps of pictures, with their classes and diagnostics."""

    def compute() -> str:
        attribution = attrlib.explain(model, list(pictures), spec, target, seed=3, max_memory=MEMORY)
        return digest(attribution.maps, attribution.resized(), attribution.target, attribution.diagnostics)

    return or_refused(compute)


def with_layer(spec: str, layer: str) -> str:
    """Return the text form of a method at a layer."""
    name, colon, params = spec.partition(":")
    return f"{name}@{layer}{colon}{params}"


def all_maps() -> Iterator[tuple[str, str]]:
    """Yield names and digests of the maps of every method at every layer on every model, and of the variants."""
    for name, pictures in PICTURES.items():
        model = attrlib.load_model(name, device="cpu")
        for layer in LAYERS:
            for spec in [*(cheap(info, layer == "Input") for info in attrlib.list_methods()), *METHOD_VARIANTS]:
                method = with_layer(spec, layer)
                yield f"maps {name} {method}", maps(model, pictures, method)
    model = attrlib.load_model("birds_resnet18", device="cpu")
    for size in (96, 160):
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        for spec in ("IxG", "LRP:rule=alpha1beta0", "Grad-CAM", "RISE:samples=6"):
            attribution = attrlib.explain(model, image, spec, 5, seed=1, max_memory=MEMORY)
            yield f"maps birds_resnet18 {spec} {size} px class 5", digest(attribution.maps, attribution.target)


def scores(name: str, protocols: Iterable[str], methods: Sequence[str], data: str, **options: Any) -> Iterator[tuple[str, str]]:
    """Yield names and digests of the scores of methods under each protocol, of ranks, and of the agreement of fast and exact maps.

    All methods are scored together first; then each score is requested alone, and read from the cache.
    """
    model = attrlib.load_model(name, device="cpu")
    label = " ".join([name, data, *(f"{key}={value}" for key, value in options.items())])
    options |= {"max_memory": MEMORY, "seed": options.get("seed", 2)}
    for protocol in protocols:
        try:
            result = attrlib.compare([protocol], model, methods, data, **options)
        except attrlib.AttrlibError:
            yield f"scores {label} {protocol}", "refused"
            continue
        rows = [
            [_field(row, key) for key in ("method", "mean", "low", "high", "first", "last", "n", "undefined")] for row in result.table()
        ]
        yield f"ranks {label} {protocol}", digest(rows)
        if options.get("fast"):
            yield f"agreement {label} {protocol}", digest(result.agreement)
        for method in methods:
            yield f"scores {label} {protocol} {method}", or_refused(lambda p=protocol, m=method: _score(model, p, m, data, options))  # type: ignore[misc]


def _score(model: Any, protocol: str, method: str, data: str, options: Mapping[str, Any]) -> str:
    result = attrlib.score(protocol, model, method, data, **options)
    return digest(result.values, result.ids, result.undefined, result.mean, result.ci95, list(result.details))


def _field(row: Any, name: str) -> Any:
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


def all_scores() -> Iterator[tuple[str, str]]:
    """Yield names and digests of the scores under every protocol and its variants, on several models and data."""
    every = [cheap(info, False) for info in attrlib.list_protocols()]
    yield from scores("birds_resnet10_tuned", [*every, *PROTOCOL_VARIANTS], SCORED, "birds", limit=4)
    yield from scores("birds_vit6_tuned", every, ("IxG", "Rollout", "RISE:samples=6:cells=4:p=0.5"), "birds", limit=2)
    yield from scores("efficientnet_lite0", every, ("IxG", "Grad-CAM"), "photos", limit=2)
    fast = ("sds", "gridpg:confidence=0", "robustness")
    yield from scores("birds_resnet10_tuned", fast, SCORED, "birds", limit=3, fast=True)
    yield from scores("birds_bagnet33", ["sds", "mass"], ("BagNet", "IxG"), "birds:select", limit=3, seed=5)
    yield from scores("birds_bcos_resnet18", ["sds", "mass"], ("B-cos", "IxG"), "birds", limit=3)
    others = (attrlib.load_model("birds_vgg11_bn", device="cpu"),)
    model = attrlib.load_model("birds_resnet10", device="cpu")
    result = attrlib.score("gridpg:confidence=0.9", model, "IxG", "birds", limit=4, max_memory=MEMORY, filter_models=others)
    yield "scores birds_resnet10 birds gridpg filtered by birds_vgg11_bn", digest(result.values, result.ids)


def aggregates() -> Iterator[tuple[str, str]]:
    """Yield names and digests of AggAtt, by the Python function and by the command line, at two smoothings."""
    generator = torch.Generator().manual_seed(4)
    random = torch.randn(40, 1, 12, 12, generator=generator)
    for label, maps_ in (("raw", random), ("smoothed", attrlib.smooth(random, kernel_size=5))):
        for signed in (False, True):
            yield f"aggregate random {label} signed={signed}", digest(_bins(attrlib.aggregate(maps_, 1, 2, size=(24, 24), signed=signed)))
    for setting in ("difull:confidence=0", "gridpg:confidence=0", "dipart:confidence=0", "mass"):
        for smoothing in ("0", "33"):
            for average in ("positive", "signed"):
                yield f"aggregate {setting} smoothing={smoothing} average={average}", _aggregate(setting, smoothing, average)


def _aggregate(setting: str, smoothing: str, average: str) -> str:
    """Return a digest of the bins of three methods and of the written numbers, both computed by the command line."""
    shown: list[list[object]] = []
    initialise = attrlib.Aggregate.__init__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        shown.append(_bins(self))

    with tempfile.TemporaryDirectory() as folder, patch.object(attrlib.Aggregate, "__init__", record):
        command(
            "aggregate", "--setting", setting, "--methods", "IxG,Grad-CAM,SmoothGrad@Middle:samples=3", "--model", "birds_resnet10",
            "--data", "birds", "--limit", "9", "--smoothing", smoothing, "--average", average, "--device", "cpu", "--out", folder,
        )  # fmt: skip
        numbers = json.loads((Path(folder) / "aggatt.json").read_text())
    rows = [[row[key] for key in ("mean", "n", "scale", "order", "ids", "values")] for row in numbers["rows"]]
    # Sorted, as the order and the number of times in which rows are assembled are not part of the result.
    return digest(rows, sorted({digest(bins) for bins in shown}))


def _bins(aggregate: attrlib.Aggregate) -> list[object]:
    return [aggregate.bins, aggregate.scale, aggregate.order, aggregate.edges, aggregate.examples, aggregate.scores]


def studies() -> Iterator[tuple[str, str]]:
    """Yield names and digests of the numbers in the tables of small studies."""
    for study, models in STUDIES.items():
        rows = json.loads(command("study", study, "--models", models, "--device", "cpu", "--json"))["rows"]
        # Sorted and without column names, as the name and layout of a table are not part of the result.
        numbers = sorted(float(value).hex() for row in rows for key, value in row.items() if _is_result(key, value))
        yield f"study {study} {models}", digest(numbers)


def _is_result(key: str, value: object) -> bool:
    return isinstance(value, int | float) and "second" not in key


def command(*words: str) -> str:
    """Run `python -m attrlib` with these arguments in this process and return its standard output.

    Raises:
        RuntimeError: If the command fails.
    """
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["attrlib", *words]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("attrlib", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise RuntimeError(f"attrlib {' '.join(words)} ended with {end.code}: {err.getvalue()}") from end
    return out.getvalue()


def compute(quiet: bool = False) -> dict[str, str]:
    """Return all digests by name, computed with an empty cache."""
    digests: dict[str, str] = {}
    start, printed = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"ATTRLIB_CACHE": folder}):
        for kind in (studies, all_maps, all_scores, aggregates):
            for name, value in kind():
                if name in digests:
                    raise ValueError(f"{name} is computed twice")
                digests[name] = value
                passed = time.monotonic() - start
                if not quiet and passed > printed + 10:
                    print(f"{passed:4.0f} s  {len(digests)} digests  {name}", file=sys.stderr, flush=True)
                    printed = passed
    return digests


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a line for each name whose digest differs, or that only one of the two mappings contains."""
    names = dict.fromkeys([*before, *after])
    return [f"{n}: {before.get(n, 'missing')} -> {after.get(n, 'missing')}" for n in names if before.get(n) != after.get(n)]


def main() -> None:
    """Write or compare digests from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run to compare with")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digests = compute(options.quiet)
    refused = sum(value == "refused" for value in digests.values())
    print(f"{len(digests)} digests, {refused} of them refusals: {digest(digests)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(digests, indent=0, ensure_ascii=False))
    if options.against:
        lines = differences(json.loads(options.against.read_text()), digests)
        print("\n".join(lines) if lines else "nothing differs")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
