"""The complexity rise against entropies counted in a plain loop, and in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch

from attrlib.protocols import create
from attrlib.protocols.complexity import histogram_entropy
from attrlib.specs import ProtocolSpec


def counted(values: list[float], bins: int) -> float:
    low, high = min(values), max(values)
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return -sum(n / len(values) * math.log(n / len(values)) for n in counts if n)


def rise(before: torch.Tensor, after: torch.Tensor, **params: object) -> float:
    """Score one item whose maps are given: that of the model, then that of the shuffled one."""
    twin, given = object(), iter([before, after])
    requests = []

    def explain(request: object) -> tuple[torch.Tensor, None]:
        requests.append(request)
        return next(given)[None, None], None

    context = SimpleNamespace(randomised_models={1.0: twin}, seed=0, model=None)
    batch = SimpleNamespace(images=torch.zeros(1, 3, 4, 4), ids=("a",))
    inputs = SimpleNamespace(context=context, batch=batch, targets=torch.tensor([1]), explain=explain, request=lambda: None)
    [outcome] = create(ProtocolSpec("complexity-rise", tuple(params.items()))).evaluate(inputs)
    assert requests[1].model is twin
    return outcome.value


def test_entropy_is_that_of_a_plain_count() -> None:
    values = torch.rand(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert histogram_entropy(values, 7) == pytest.approx(counted(values.flatten().tolist(), 7))


def test_closed_forms() -> None:
    two, four = torch.tensor([0.0, 1.0]).repeat(4, 2), torch.arange(4.0).repeat(4, 1)
    assert rise(two, four) == pytest.approx(1)
    assert rise(four, two) == pytest.approx(-0.5)
    assert rise(four, four) == 0
    assert rise(four, torch.ones(4, 4)) == -1
    # The magnitudes of -1, 0 and 1 are two values.
    assert rise(two, torch.tensor([-1.0, 0.0, 1.0, 0.0]).repeat(4, 1), absolute=True) == pytest.approx(0)


def test_undefined_for_constant_and_infinite_maps() -> None:
    four = torch.arange(4.0).repeat(4, 1)
    assert math.isnan(rise(torch.ones(4, 4), four))
    assert math.isnan(rise(four, torch.full((4, 4), math.inf)))
