"""Look up the outcomes of a protocol's sources: protocols from whose outcomes for the same maps it derives its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attrlib.engine.cache import ResultCache
from attrlib.engine.items import EvalItem
from attrlib.engine.keys import ResultKeys
from attrlib.engine.loader import take
from attrlib.protocols import EvalBatch, Outcome, Protocol
from attrlib.specs import MethodSpec, digest
from attrlib.store import Record


@dataclass(frozen=True)
class CachedOutcomes:
    """Return the outcomes of a source, read from the cache of scores or computed and cached.

    Args:
        cache: Where outcomes are looked up and stored, as scores of the source.
        keys: Keys of the results of the model.
        method: The method whose maps are scored, resolved.
        items: The items of the batch.
    """

    cache: ResultCache
    keys: ResultKeys
    method: MethodSpec
    items: Sequence[EvalItem]

    def __call__(self, source: Protocol, inputs: EvalBatch) -> list[Outcome]:
        key_fields = self.keys.score(source, self.method)
        key, names = digest(key_fields), [item.key(source.target_choice) for item in self.items]
        cached = self.cache.records(key, names)
        missing = [row for row, name in enumerate(names) if name not in cached]
        if missing:
            outcomes = source.evaluate(replace(inputs, batch=take(inputs.batch, missing), targets=inputs.targets[missing]))
            computed = {names[row]: Record(outcome.value, outcome.details) for row, outcome in zip(missing, outcomes, strict=True)}
            self.cache.add_records(key, key_fields, computed)
            cached = cached | computed
        return [Outcome(cached[name].value, cached[name].details) for name in names]  # type: ignore[arg-type]


def cached_forwards(protocol: Protocol, method: MethodSpec, names: Sequence[str], cache: ResultCache, keys: ResultKeys) -> float:
    """Return the number of forward passes that items do not need because outcomes of the protocol's sources are cached.

    Args:
        protocol: The protocol.
        method: The method, resolved.
        names: Keys of the items.
        cache: Where outcomes are looked up.
        keys: Keys of the results of the model.
    """
    return sum(len(cache.values(digest(keys.score(source, method)), names)) * source.cost.forwards for source in protocol.sources)
