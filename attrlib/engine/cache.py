"""Where an evaluator keeps results: the store, or memory."""

from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

from torch import Tensor

from attrlib.store import Record, rounded


class ResultCache(Interface):
    """Records and maps by key. The store is one; entries that exist already are never replaced."""

    @property
    def dtype(self) -> str:
        """Precision of cached maps: float32 or float16."""

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the cached records among these items."""

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return the values alone of the cached records among these items."""

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records by item; `spec` is what `key` is the digest of."""

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys, float32 (1,h,w) each."""

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) by key."""

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps at the precision at which the cache keeps them."""


class RunStore(ResultCache, Interface):
    """What a run needs besides a cache: its manifest and its state. Another back end for results implements this."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on what was repaired or could not be kept."""

    def save_run(self, key: str, spec: Mapping[str, object], parts: Mapping[str, object]) -> None:
        """Write the manifest of a run."""

    def set_state(self, key: str, state: str) -> None:
        """Set a run's state: running, done, cancelled or failed."""


class InMemoryCache:
    """A cache that ends with the process: for one look at a few images, and for workers that send their results home."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self._records: dict[str, dict[str, Record]] = {}
        self._specs: dict[str, Mapping[str, object]] = {}
        self._maps: dict[str, Tensor] = {}

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the cached records among these items."""
        cached = self._records.get(key, {})
        return {item: cached[item] for item in items if item in cached}

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return the values alone of the cached records among these items."""
        return {item: record.value for item, record in self.records(key, items).items()}

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records by item; `spec` is what `key` is the digest of."""
        self._specs[key] = spec
        cached = self._records.setdefault(key, {})
        cached |= {item: record for item, record in records.items() if item not in cached}

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys, float32 (1,h,w) each."""
        return {key: self._maps[key] for key in keys if key in self._maps}

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) by key."""
        self._maps |= {key: values for key, values in maps.items() if key not in self._maps}

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps at the precision at which the cache keeps them."""
        return rounded(maps, self.dtype)

    def move_to(self, cache: ResultCache) -> None:
        """Add everything to another cache and forget it here."""
        for key, records in self._records.items():
            cache.add_records(key, self._specs[key], records)
        cache.add_maps(self._maps)
        self._records, self._specs, self._maps = {}, {}, {}
