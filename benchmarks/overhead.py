"""Measure the overhead of engine and store: `python -m benchmarks.overhead --data FOLDER`.

Computes SDS of some methods twice: by the engine with an empty store, and by plain calls, which for every batch compute the images,
`attribute_all`, the 17 outputs of each image, and Spearman's correlation. Both run alternately in one process; the best of all turns
counts. Trust the ratio of CPU seconds on a machine that other programs use, and the ratio of wall-clock time on an idle one.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import attrlib
from attrlib.data.datasets import Dataset
from attrlib.data.labels import match_classes
from attrlib.deletion import cells
from attrlib.engine.items import image_items
from attrlib.engine.plan import make_plan
from attrlib.engine.run import run
from attrlib.methods import BATCH_SIZE, attribute_all
from attrlib.models import EMBEDDED, Classifier
from attrlib.postprocess import resize
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, parse_methods
from attrlib.statistics import spearman
from attrlib.store import Store
from benchmarks.clock import timed

GOAL = 0.03
GRID = 4
Scores = dict[str, float]


def by_calls(model: Classifier, data: Dataset, specs: tuple[MethodSpec, ...], limit: int) -> Scores:
    """Return the mean SDS of every method, computed by plain calls.

    Args:
        model: Model to explain.
        data: Data set whose class names the model has.
        specs: Methods to score.
        limit: Number of images.
    """
    chosen = image_items(data, match_classes(data.class_names, model.class_names), limit, seed=0, labelled=True).items
    values: dict[str, list[torch.Tensor]] = {str(spec): [] for spec in specs}
    for first in range(0, len(chosen), BATCH_SIZE):
        items = chosen[first : first + BATCH_SIZE]
        images = model.place(torch.stack([model.preprocess(data[item.images[0]].image) for item in items]))
        labels = torch.tensor([item.labels[0] for item in items])
        pictures = [images]
        for cell in range(GRID**2):
            pictures.append(images.clone())
            cells(pictures[-1], GRID)[cell].zero_()
        with torch.no_grad():
            outputs = torch.stack([model(some).gather(1, labels[:, None])[:, 0] for some in pictures], 1)
        for spec, attribution in zip(specs, attribute_all(model, specs, images, labels.tolist()), strict=True):
            sums = torch.stack([cell.sum((1, 2, 3)) for cell in cells(resize(attribution.maps, model.input_size), GRID)], 1)
            values[str(spec)].append(spearman(outputs[:, :1] - outputs[:, 1:], sums))
    return {name: float(torch.cat(chunks).nanmean()) for name, chunks in values.items()}


def by_engine(model: Classifier, data: Dataset, specs: tuple[MethodSpec, ...], limit: int) -> Scores:
    """Return the mean SDS of every method, computed by a run with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder=Path(folder))
        spec = RunSpec(ModelSpec(model.name), data.name, (ProtocolSpec("sds"),), specs, limit)
        result = run(make_plan(spec, model, data, store))
        store.close()
    return {str(method): score.mean for (_, method), score in result.scores.items()}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders named by WNID, for example of imagenette's val")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--methods", default="IG:steps=16,Grad-CAM,IxG")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    model, data = attrlib.load_model(options.model, device="cpu"), attrlib.load_dataset(options.data)
    specs = parse_methods(options.methods)
    # Warm up, so that neither side pays for finding layers or for first calls.
    by_engine(model, data, specs, 1)
    best = dict.fromkeys(("plain", "engine"), np.full(2, np.inf))
    scores: dict[str, Scores] = {}
    for _ in range(options.turns):
        for name, work in (("plain", by_calls), ("engine", by_engine)):
            scores[name], seconds = timed(lambda work=work: work(model, data, specs, options.images))  # type: ignore[misc]
            best[name] = np.minimum(best[name], seconds)
    for name, (wall, cpu) in best.items():
        print(f"{name:8} {cpu:8.2f} CPU s {wall:8.2f} s   " + "  ".join(f"{k} {v:.4f}" for k, v in scores[name].items()))
    for i, clock in enumerate(("wall", "CPU")):
        print(f"{clock:5} engine and store add {best['engine'][i] / best['plain'][i] - 1:+.1%} (goal {GOAL:.0%})")


if __name__ == "__main__":
    main()
