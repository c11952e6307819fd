"""Which protocol to trust on a kind of model, by the results of the study `meta` that come with attrlib."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from attrlib.errors import AttrlibError
from attrlib.models import Classifier
from attrlib.protocols import resolve
from attrlib.specs import ProtocolSpec
from attrlib.studies.words import listed

BLIND = 0.3
"""Recovery up to which a protocol counts as blind to a kind of damage."""
DATA = "birds"
"""The data set of the study."""
MANY = 100
"""Names are never left out of a list."""
WORDS = {"noise": "noise in a map", "blur": "blur", "shift": "a shift of the map", "signs": "the signs of a map"}


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        transformer: Whether its last layer consists of tokens.
        tuned: Whether it was tuned on deleted patches.
    """

    transformer: bool
    tuned: bool

    def __str__(self) -> str:
        family = "transformer" if self.transformer else "convolutional network"
        return f"a {family} tuned on deleted patches" if self.tuned else f"a {family} that was not tuned on deleted patches"


@dataclass(frozen=True)
class Evidence:
    """What the study found on a protocol for a kind of model.

    Attributes:
        kind: The kind of model.
        protocol: The protocol in text form.
        mean: Its mean recovery of the order of maps that are right to a known degree.
        low: Lower end of its 95 % CI.
        high: Upper end.
        recovers: Whether the mean is significantly above 0.
        kinds: Its mean recovery for each kind of damage.
    """

    kind: Kind
    protocol: str
    mean: float
    low: float
    high: float
    recovers: bool
    kinds: Mapping[str, float]


@dataclass(frozen=True)
class Recommendation:
    """The protocols to trust, the better ones first, and the reason in a few sentences."""

    protocols: tuple[str, ...]
    words: str


def kind_of(model: Classifier) -> Kind | None:
    """Return the kind of a model; None if it has no last layer."""
    try:
        return Kind(model.layer("Final").layout.kind == "tokens", model.deletion_tuned)
    except AttrlibError:
        return None


@cache
def shipped() -> tuple[Evidence, ...]:
    """Return the results of the study that come with attrlib."""
    return tuple(map(read, json.loads((files("attrlib.studies") / "evidence.json").read_text(encoding="utf-8"))))


def read(row: Mapping[str, object]) -> Evidence:
    """Return the evidence in a row of the file that comes with attrlib."""
    kinds = {str(name): float(value) for name, value in dict(row["kinds"]).items()}  # type: ignore[call-overload]
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))  # type: ignore[arg-type]
    return Evidence(Kind(bool(row["transformer"]), bool(row["tuned"])), str(row["protocol"]), mean, low, high, bool(row["recovers"]), kinds)


def recommend(
    kind: Kind, protocols: Sequence[ProtocolSpec], data: str, evidence: Sequence[Evidence], label: Callable[[ProtocolSpec], str] = str
) -> Recommendation | None:
    """Return which of the protocols to trust, or None if the evidence does not tell.

    It tells if at least two of the protocols were studied on this kind of model, the best of them recovers the truth, and its interval
    lies above that of another. Trusted are the best and those whose intervals overlap with its.

    Args:
        kind: The kind of model.
        protocols: The protocols to choose from.
        data: Name of the data set.
        evidence: Results of the study `meta`.
        label: Returns what the words call one of the protocols.

    Example:
        >>> kind = Kind(transformer=False, tuned=True)
        >>> known = [Evidence(kind, "idsds", 0.8, 0.7, 0.9, True, {}), Evidence(kind, "entropy", 0.2, 0.1, 0.3, True, {})]
        >>> recommend(kind, [ProtocolSpec("idsds"), ProtocolSpec("entropy")], "birds", known).protocols
        ('idsds',)
    """
    wanted = {_setting(ProtocolSpec.parse(each.protocol)): each for each in evidence if each.kind == kind}
    asked = {setting: protocol for protocol in protocols if (setting := _setting(protocol)) in wanted}
    known = sorted((replace(wanted[setting], protocol=label(protocol)) for setting, protocol in asked.items()), key=lambda each: -each.mean)
    if len(known) < 2 or not known[0].recovers:
        return None
    best = known[0]
    trusted = [each for each in known if each.recovers and each.high >= best.low]
    others = [each for each in known if each not in trusted]
    if not others:
        return None
    names = tuple(each.protocol for each in trusted)
    words = [f"On {kind}, trust {listed(names, MANY)}: {_reason(trusted, others)}"]
    words += [
        f"{each.protocol} does not notice {listed(blind, MANY)}."
        for each in trusted
        if (blind := [WORDS[damage] for damage, value in each.kinds.items() if value <= BLIND])
    ]
    if data.partition(":")[0] != DATA:
        words.append(f"This was measured on {DATA}, not on this data set.")
    return Recommendation(names, " ".join(words))


def _reason(trusted: Sequence[Evidence], others: Sequence[Evidence]) -> str:
    scores = listed([f"{each.mean:.2f}" for each in trusted], MANY)
    beaten = listed([f"{each.protocol} {each.mean:.2f}" for each in others], MANY)
    verb = "it ordered" if len(trusted) == 1 else "they ordered"
    return f"{verb} maps of known quality best (rank correlation {scores}; {beaten})."


def _setting(protocol: ProtocolSpec) -> tuple[str, tuple[tuple[str, object], ...]]:
    """Return a protocol without its number of steps or samples, which make it more or less precise."""
    values = resolve(protocol).values
    return protocol.name, tuple((name, value) for name, value in values.items() if name not in ("steps", "samples"))
