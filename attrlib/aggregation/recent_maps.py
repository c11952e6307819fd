"""A store that keeps recently read maps in memory."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor

from attrlib.engine.cache import RunStore
from attrlib.store import Record

MAP_BYTES = 128 << 20
"""Most bytes of maps kept in memory for reuse; half of what a queue keeps of all results."""


class RecentMaps:
    """The store, with recently read maps kept in memory, so that another smoothing does not read them again."""

    def __init__(self, store: RunStore):
        self._store = store
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self.nbytes = 0

    @property
    def dtype(self) -> str:
        """Return the precision of cached maps."""
        return self._store.dtype

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the cached records among these items."""
        return self._store.records(key, items)

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return the values of the cached records among these items, without details."""
        return self._store.values(key, items)

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records to the store."""
        self._store.add_records(key, spec, records)

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._recent]
        read = self._store.maps(missing) if missing else {}
        maps = {key: read[key] if key in read else self._recent[key] for key in keys if key in read or key in self._recent}
        for key, values in read.items():
            self._recent[key] = values
            self.nbytes += values.nbytes
        while self.nbytes > MAP_BYTES:
            self.nbytes -= self._recent.popitem(last=False)[1].nbytes
        return maps

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps to the store."""
        self._store.add_maps(maps)

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps at the precision at which the store keeps them."""
        return self._store.rounded(maps)
