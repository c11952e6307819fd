"""Interfaces of the caches in which an evaluator keeps results, and a cache in memory."""

from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

from torch import Tensor

from attrlib.store import Claims, Record, rounded


class ResultCache(Interface):
    """A cache of records and maps by key, such as the store. Existing entries are never replaced."""

    @property
    def dtype(self) -> str:
        """Return the precision of cached maps: float32 or float16."""

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the cached records among these items."""

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return the values of the cached records among these items, without details."""

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records by item; `key` is the digest of `spec`."""

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys, float32 (1,h,w) each."""

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) by key."""

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps at the precision at which the cache keeps them."""


class RunStore(ResultCache, Interface):
    """A cache that also keeps the manifest and the state of runs. A custom back end for results implements this interface."""

    @property
    def map_limit(self) -> int | None:
        """Return the most bytes of maps that the store keeps, None for any number."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes for the user on what was repaired or could not be stored."""

    def claims(self) -> Claims | None:
        """Return a new owner of claims, None if no other process uses the store."""

    def save_run(self, key: str, spec: Mapping[str, object], parts: Mapping[str, object]) -> None:
        """Write the manifest of a run.

        Args:
            key: Key of the run.
            spec: Description of the run: kind, title, spec and digest of the model.
            parts: For each protocol and method, the key of the records and the keys of the items.
        """

    def set_state(self, key: str, state: str) -> None:
        """Set a run's state: running, done, cancelled or failed."""


class StoreView(RunStore):
    """A store that does something more or less with what is added; everything else goes to another store.

    Args:
        store: The other store.
    """

    def __init__(self, store: RunStore):
        self._store = store

    @property
    def dtype(self) -> str:
        return self._store.dtype

    @property
    def map_limit(self) -> int | None:
        return self._store.map_limit

    @property
    def notes(self) -> tuple[str, ...]:
        return self._store.notes

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        return self._store.records(key, items)

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        return self._store.values(key, items)

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        self._store.add_records(key, spec, records)

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        return self._store.maps(keys)

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        self._store.add_maps(maps)

    def rounded(self, maps: Tensor) -> Tensor:
        return self._store.rounded(maps)

    def claims(self) -> Claims | None:
        return self._store.claims()

    def save_run(self, key: str, spec: Mapping[str, object], parts: Mapping[str, object]) -> None:
        self._store.save_run(key, spec, parts)

    def set_state(self, key: str, state: str) -> None:
        self._store.set_state(key, state)


class InMemoryCache:
    """A cache in memory, for a few images and for workers that send their results to the run's store."""

    map_limit = None

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
        """Return the values of the cached records among these items, without details."""
        return {item: record.value for item, record in self.records(key, items).items()}

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records by item; `key` is the digest of `spec`."""
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
        """Move all records and maps to another cache."""
        for key, records in self._records.items():
            cache.add_records(key, self._specs[key], records)
        cache.add_maps(self._maps)
        self._records, self._specs, self._maps = {}, {}, {}
