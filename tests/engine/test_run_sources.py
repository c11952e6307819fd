"""Runs of protocols that derive their scores from those of others: the same scores in any order, and no pass twice."""

from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import alone, compare, named, passes, plan_of

from attrlib.store import Store

BOTH = ("ids:steps=3", "ids:steps=3:order=descending")
SRG = "srg:steps=3"


def counted(model: attrlib.Classifier, protocols: str, data: Path, store: Store) -> tuple[int, dict[str, bytes]]:
    """Return the images that pass through the model in a run, and the values of each protocol."""
    with passes() as found:
        result = compare(model, protocols, "Sobel", data, store, limit=4)
    return found.images, {protocol: score.values.tobytes() for (protocol, _), score in named(result).items()}


def test_a_run_of_srg_and_ids_costs_the_passes_of_ids_in_both_orders(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    compare(model, "sds", "Sobel", data, alone(tmp_path / "warm"), limit=1)
    costs, values = zip(
        *(
            counted(model, ",".join(order), data, alone(tmp_path / str(number)))
            for number, order in enumerate([BOTH, (*BOTH, SRG), (SRG, *BOTH), (BOTH[1], SRG, BOTH[0]), (SRG,)])
        ),
        strict=True,
    )
    assert costs == (24,) * 5
    everything = values[1]
    assert len(everything) == 3
    assert all(value == everything[name] for found in values for name, value in found.items())


def test_srg_needs_no_pass_where_ids_was_scored_before_and_the_plan_says_so(
    model: attrlib.Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fresh = counted(model, SRG, data, alone(tmp_path / "fresh"))
    store = alone(tmp_path / "store")
    # Measured passes differ from plan to plan.
    monkeypatch.setattr("attrlib.engine.plan.probe", lambda *_args: attrlib.engine.memory.Probe(1.0, 2.5, 1))
    estimates = [plan_of(model, SRG, "Sobel", data, store, limit=4).estimate().seconds]
    for text in BOTH:
        counted(model, text, data, store)
        estimates.append(plan_of(model, SRG, "Sobel", data, store, limit=4).estimate().seconds)
    assert [estimates[0] - each for each in estimates] == [0, 12, 24]
    assert counted(model, SRG, data, store) == (0, fresh)
