"""A small network, pictures that it classifies correctly, and short ways to run it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib import RunResult, RunSpec, Score
from attrlib.data.datasets import load_dataset
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.run import Event
from attrlib.errors import Cancelled
from attrlib.methods import resolve
from attrlib.specs import MethodSpec, digest, parse_methods, parse_protocols
from attrlib.store import Store
from support.numbers import SEED

CLASSES, SIZE = 5, 16
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60), (60, 190, 190))
"""The colour of each class, before noise."""
HALF = (0.5, 0.5, 0.5)
GRID = "gridpg:confidence=0.5"


class Stem(nn.Conv2d):
    """Counts the images that pass through it."""

    passed = 0

    def forward(self, x: Tensor) -> Tensor:
        Stem.passed += len(x)
        return super().forward(x)


class Net(nn.Module):
    """Two random convolutions, and a head that predicts the class with the nearest plain colour."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, size: int = SIZE) -> None:
        super().__init__()
        self.conv1, self.act1 = Stem(3, 8, 3, padding=1), activation()
        self.conv2, self.act2 = nn.Conv2d(8, 8, 3, stride=2, padding=1), activation()
        self.fc = nn.Linear(8, CLASSES)
        plain = torch.tensor(COLOURS)[:, :, None, None].expand(-1, -1, size, size) / 127.5 - 1
        with torch.no_grad():
            features = self.features(plain.contiguous())
            self.fc.weight.copy_(2500 * features)
            self.fc.bias.copy_(-1250 * features.square().sum(1))

    def features(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(self.act1(self.conv1(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def net(seed: int = 0, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + SEED)
        return Net(**options).eval()


def classifier(seed: int = 0, **options: Any) -> attrlib.Classifier:
    return attrlib.wrap_model(net(seed, **options), options.get("size", SIZE), HALF, HALF)


def picture(colour: int, number: int, side: int = 20) -> Image.Image:
    """Return a picture of a class: its colour, with noise drawn from colour and number."""
    noise = np.random.default_rng([colour, number + SEED])
    values = np.array(COLOURS[colour]) + noise.normal(0, 25, (side, side, 1)) + noise.normal(0, 10, (side, side, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def pictures(folder: Path, count: int = 4, classes: int = CLASSES, side: int = 20) -> Path:
    """Write `count` pictures of each class into a subfolder named by its index, and return the folder."""
    for k in range(classes):
        (folder / str(k)).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(k, number, side).save(folder / str(k) / f"{number}.png", compress_level=1)
    return folder


class Calls(list[tuple[str, str, int]]):
    """All computed maps, in order: method with its parameters, digest of the image, class."""

    @property
    def times(self) -> Counter[tuple[str, str, int]]:
        return Counter(self)

    def of(self, method: str) -> int:
        return sum(name.partition("@")[0] == method for name, _, _ in self)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Return a list to which all maps computed from now on are added."""
    found, original = Calls(), attrlib.engine.evaluator.attribute_each

    def counted(view: Any, specs: Sequence[MethodSpec], images: Tensor, targets: Sequence[int], options: Any, owners: Any) -> list[Any]:
        owned = range(len(images)) if owners is None else owners
        result = original(view, specs, images, targets, options, owners)
        contents = [digest(images[k].contiguous().numpy().tobytes()) for k in owned]
        found.extend((str(resolve(spec)), content, target) for spec in specs for content, target in zip(contents, targets, strict=True))
        return result

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", counted)
    return found


@contextmanager
def passes() -> Iterator[SimpleNamespace]:
    """Count the images that pass through the stem of any network in the block."""
    counted = SimpleNamespace(images=0)
    before = Stem.passed
    yield counted
    counted.images = Stem.passed - before


def compare(model: attrlib.Classifier, protocols: str, methods: str, data: object, store: Store, **options: Any) -> RunResult:
    protocol_texts, method_texts = [str(p) for p in parse_protocols(protocols)], [str(m) for m in parse_methods(methods)]
    return attrlib.compare(protocol_texts, model, method_texts, data, store=store, **options)  # type: ignore[arg-type]


def spec_of(model: attrlib.Classifier, protocols: str, methods: str, data: object, **options: Any) -> RunSpec:
    return RunSpec(model.spec, str(data), parse_protocols(protocols), parse_methods(methods), **options)


def plan_of(model: attrlib.Classifier, protocols: str, methods: str, data: object, store: Store, **options: Any) -> Plan:
    return make_plan(spec_of(model, protocols, methods, data, **options), model, load_dataset(str(data)), store)


def named(result: RunResult) -> dict[tuple[str, str], Score]:
    return {(str(p), str(m)): score for (p, m), score in result.scores.items()}


def same(one: RunResult, other: RunResult) -> bool:
    """Return whether two results are equal bit for bit, with items and details."""
    a, b = named(one), named(other)
    return list(a) == list(b) and all(
        a[k].values.tobytes() == b[k].values.tobytes()
        and (a[k].ids, a[k].items) == (b[k].ids, b[k].items)
        and repr([dict(d) for d in a[k].details]) == repr([dict(d) for d in b[k].details])
        for k in a
    )


def alone(folder: Path) -> Store:
    return Store(folder=folder)


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("attrlib-loader")]


def nothing_to_resume(store: Store) -> bool:
    return not [r for r in store.runs() if r.state in ("running", "cancelled")]


def spoil(data: Path) -> None:
    """Add a file that is not a picture, a truncated one, and a broken link."""
    (data / "2" / "0 nonsense.png").write_bytes(b"nonsense")
    (data / "1" / "9 cut.png").write_bytes((data / "1" / "0.png").read_bytes()[:300])
    (data / "0" / "2 gone.png").symlink_to("nowhere.png")


BUSY = "IG:steps=3,Random"


def stop_at(number: int) -> Callable[[Event], None]:
    """Return a progress callback that cancels at the event of that number, from 0."""
    seen = iter(range(number))

    def on_progress(_event: Event) -> None:
        if next(seen, None) is None:
            raise Cancelled("enough")

    return on_progress


def read(model: attrlib.Classifier, data: Path) -> tuple[Tensor, list[int]]:
    dataset = load_dataset(data)
    items = [dataset[i] for i in range(len(dataset))]
    return torch.stack([model.preprocess(item.image) for item in items]), [int(dataset.class_names[item.label or 0]) for item in items]
