"""A run leaves the model as it was, and memory flat."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support.runs import GRID, HALF, SIZE, compare, net, pictures, spec_of, stop_at
from support.waiting import LIMIT
from torch import nn

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.plan import make_plan
from attrlib.errors import AttrlibError, Cancelled
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


def fingerprint(module: nn.Module) -> object:
    """Everything about a module that somebody else may rely on."""
    modules = list(module.modules())
    return (
        {name: (values.clone().numpy().tobytes(), values.data_ptr(), values.dtype) for name, values in module.state_dict().items()},
        [p.requires_grad for p in module.parameters()],
        [p.grad is None for p in module.parameters()],
        [m.training for m in modules],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        [sorted(vars(m)) for m in modules],
        torch.get_rng_state().numpy().tobytes(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("how", ["whole", "cancelled", "failed", "fast"])
def test_a_run_leaves_the_model_as_it_was(how: str, data: Path, store: Store) -> None:
    if how == "fast" and not has_bfloat16(torch.device("cpu")):
        pytest.skip("no bfloat16 here")
    module = net(activation=nn.GELU if how == "failed" else nn.ReLU)
    module.train()
    module.fc.requires_grad_(False)
    model = attrlib.wrap_model(module, SIZE, HALF, HALF)
    before = fingerprint(module)
    ask = functools.partial(compare, model, f"sds,{GRID},randomisation:stages=2,dipart:confidence=0.5", "IxG,Grad-CAM", data, store)
    if how == "cancelled":
        for number in (0, 3, 9):
            with pytest.raises(Cancelled):
                ask(on_progress=stop_at(number))
    elif how == "failed":
        with pytest.raises(AttrlibError):
            compare(model, "sds", "Guided Backprop", data, store)
    else:
        ask(fast=how == "fast")
    assert fingerprint(module) == before


MEASURE = """
import ctypes
import sys
from contextlib import closing
from pathlib import Path
import numpy as np
import psutil
from attrlib.store import Store
from support.runs import classifier, compare, pictures

folder, side, process = Path(sys.argv[1]), 128, psutil.Process()
trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
model = classifier(size=side)
few, many = pictures(folder / "few", 13, side=side), pictures(folder / "many", 103, side=side)
for name, data, limit in (("warm", few, 64), ("few", few, 64), ("many", many, 512)):
    sizes = []
    with closing(Store(folder=folder / f"store {name}")) as store:
        def on_progress(_event):
            # What is free goes back to the system, where the library can: how much of it stays otherwise depends on the threads' timing.
            trim(0)
            sizes.append(process.memory_info().rss)

        result = compare(model, "infidelity:samples=1", "Gradient", data, store, limit=limit, on_progress=on_progress)
    assert result.computed == limit
    # Single peaks are the allocator's; what is kept is there to the end.
    print(int(np.median(sizes[-len(sizes) // 4 :])))
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """An image takes 197 kB, a map 66 kB: 448 more of either would be seen. In a process of its own, whose heap nothing else has used."""
    tests = Path(__file__).parents[1]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], env=variables, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    _, few, many = map(int, done.stdout.split())
    assert many - few < 20 * 2**20


def test_looking_through_the_images_can_be_cancelled(model: attrlib.Classifier, data: Path, store: Store) -> None:
    """A folder whose images are read for the first time takes as long as it is large."""
    told: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise Cancelled("enough")

    many = pictures(data, 8)
    with pytest.raises(Cancelled):
        make_plan(spec_of(model, "sds", "IxG", many), model, load_dataset(many), store, on_progress=look)
    assert told == [(0, 40), (16, 40)]
    assert make_plan(spec_of(model, "sds", "IxG", many), model, load_dataset(many), store).missing == 40
