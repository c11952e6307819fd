"""Compare the speed of methods with Captum, pytorch-grad-cam, torch-cam and zennit on a CNN and on a ViT: `python -m benchmarks.rivals`.

Each library runs under the best conditions for it; see `rival_maps.py`. All run alternately in one process; the best of all turns counts,
in CPU seconds, which other programs disturb least. `ratio` is attrlib's time over that of the fastest other library. If a library fails
or has no rule, the output says so. For IG, attrlib and Captum both compute the convergence error.
"""

import argparse
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from attrlib.errors import AttrlibError
from attrlib.methods import BATCH_SIZE, METHODS, attribute
from attrlib.models import EMBEDDED, Classifier
from attrlib.specs import MethodSpec
from benchmarks.methods import best
from benchmarks.nets import VIT_TINY, load
from benchmarks.rival_maps import libraries

SLOW = ("Score-CAM", "Ablation-CAM", "SS-CAM", "IS-CAM")
"""Methods with a pass per channel."""


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, over all threads."""
    return best(work, torch.device("cpu"))


def compare(model: Classifier, images: Tensor, turns: int, methods: Collection[str]) -> None:
    """Print a table of those of the methods that another library has."""
    print(f"{model.name}, {len(images)} images, {torch.get_num_threads()} threads, CPU ms\n{'method':44} {'ours':>8} {'theirs':>8}  ratio")
    rivals = libraries(model, images)
    for text in dict.fromkeys(text for maps in rivals.values() for text in maps):
        spec = MethodSpec.parse(text)
        if spec.name not in methods:
            continue

        def ours(spec: MethodSpec = spec) -> object:
            return attribute(model, spec, images, [0] * len(images))

        works: dict[str, Callable[[], Any]] = {}
        for library, maps in rivals.items():
            if text in maps:
                try:
                    maps[text]()
                except Exception as error:  # noqa: BLE001  whatever another library raises is a result
                    print(f"{text:44} {library} fails: {(str(error) or type(error).__name__).splitlines()[0][:100]}")
                else:
                    works[library] = maps[text]
        try:
            ours()
        except AttrlibError as error:
            print(f"{text:44} {str(error)[:120]}")
            continue
        if works:
            times = [[seconds(work) for work in (ours, *works.values())] for _ in range(turns)]
            mine, *theirs = (1000 * min(values) for values in zip(*times, strict=True))
            found = ", ".join(f"{library} {value:.1f}" for library, value in zip(works, theirs, strict=True))
            print(f"{text:44} {mine:8.1f} {min(theirs):8.1f} {mine / min(theirs):6.2f}   {found}", flush=True)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[EMBEDDED, VIT_TINY])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--methods", default=",".join(m for m in METHODS if m not in SLOW), help=f"names; by default, all but {', '.join(SLOW)}"
    )
    options = parser.parse_args()
    if not 1 <= options.images <= BATCH_SIZE:
        parser.error(f"--images must be from 1 to {BATCH_SIZE}, the number of rows per pass")
    # Captum warns at every call that it sets requires_grad of its input.
    warnings.filterwarnings("ignore", module="captum")
    for name in options.models:
        model = load(name, "cpu")
        images = model.place(torch.randn(options.images, 3, *model.input_size, generator=torch.Generator().manual_seed(1)))
        compare(model, images, options.turns, options.methods.split(","))


if __name__ == "__main__":
    main()
