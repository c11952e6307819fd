"""Which protocol to trust, from made-up evidence, and from the evidence that comes with attrlib."""

import math

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.method_nets import model

from attrlib.protocols import PROTOCOLS
from attrlib.specs import ProtocolSpec
from attrlib.studies.ladder import DAMAGES
from attrlib.studies.trust import Evidence, Kind, kind_of, read, recommend, shipped
from docs._build.evidence import rows_of

TUNED, PLAIN = Kind(transformer=False, tuned=True), Kind(transformer=False, tuned=False)


def known(protocol: str, mean: float, half: float = 0.05, kind: Kind = TUNED, recovers: bool = True, **kinds: float) -> Evidence:
    return Evidence(kind, protocol, mean, mean - half, mean + half, recovers, kinds)


def specs(*texts: str) -> list[ProtocolSpec]:
    return [ProtocolSpec.parse(text) for text in texts]


def test_the_best_protocol_is_recommended_where_it_is_better_than_the_others() -> None:
    evidence = [known("idsds", 0.8), known("ids", 0.5), known("entropy", 0.1, recovers=False), known("idsds", 0.1, kind=PLAIN)]
    found = recommend(TUNED, specs("entropy", "ids", "idsds"), "birds", evidence)
    assert found is not None
    assert found.protocols == ("idsds",)
    assert found.words == (
        "On a convolutional network tuned on deleted patches, trust idsds: it ordered maps of known quality best (rank correlation 0.80; "
        "ids 0.50 and entropy 0.10)."
    )


def test_protocols_whose_intervals_overlap_are_recommended_together_with_what_they_miss() -> None:
    evidence = [known("idsds", 0.8, signs=0.9), known("ids:steps=16", 0.75, signs=0.0, shift=0.2), known("sds", 0.2)]
    found = recommend(TUNED, specs("sds", "ids:steps=32", "idsds", "infidelity"), "photos", evidence)
    assert found is not None
    assert found.protocols == ("idsds", "ids:steps=32")
    assert "ids:steps=32 does not notice the signs of a map and a shift of the map." in found.words
    assert "idsds does not notice" not in found.words
    assert found.words.endswith("This was measured on birds, not on this data set.")


@pytest.mark.parametrize(
    ("protocols", "evidence"),
    [
        (("idsds", "ids"), [known("idsds", 0.8), known("ids", 0.75)]),
        (("idsds", "ids"), [known("idsds", 0.1, recovers=False), known("ids", -0.5, recovers=False)]),
        (("idsds", "ids"), [known("idsds", 0.8), known("ids", 0.1, kind=PLAIN)]),
        (("idsds",), [known("idsds", 0.8), known("ids", 0.1)]),
        (("idsds", "ids:order=descending"), [known("idsds", 0.8), known("ids", 0.1)]),
        (("idsds", "ids"), [known("idsds", math.nan, recovers=False), known("ids", math.nan, recovers=False)]),
        ((), []),
    ],
    ids=["tie", "none recovers", "other kind", "only one", "other setting", "undefined", "nothing"],
)
def test_nothing_is_recommended_where_the_evidence_does_not_tell(protocols: tuple[str, ...], evidence: list[Evidence]) -> None:
    assert recommend(TUNED, specs(*protocols), "birds", evidence) is None


def test_the_kind_of_a_model_is_that_of_its_last_layer() -> None:
    assert kind_of(model("functional")) == PLAIN
    assert kind_of(attrlib.load_model("birds_vit6_tuned")) == Kind(transformer=True, tuned=True)


def test_the_evidence_of_attrlib_is_that_of_registered_protocols_on_each_kind_of_model() -> None:
    assert {each.kind for each in shipped()} == {Kind(transformer, tuned) for transformer in (False, True) for tuned in (False, True)}
    for each in shipped():
        assert ProtocolSpec.parse(each.protocol).name in PROTOCOLS
        assert each.low <= each.mean <= each.high
        assert each.kinds.keys() == set(DAMAGES)


def test_the_file_of_evidence_is_made_of_the_rows_of_the_study() -> None:
    row = {
        "model": "birds_vit6",
        "tuned": False,
        "truth": "parts",
        "protocol": "sds",
        "mean": 0.5,
        "low": 0.4,
        "high": 0.6,
        "recovers": True,
    }
    row |= dict.fromkeys(DAMAGES, 0.5)
    rows = [row | {"by construction": False}, row | {"by construction": True}, row | {"truth": "trigger", "by construction": False}]
    (only,) = rows_of({"rows": rows})
    assert read(only) == Evidence(Kind(True, False), "sds", 0.5, 0.4, 0.6, True, dict.fromkeys(DAMAGES, 0.5))
