"""A store that keeps recently read maps in memory."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from attrlib.engine.cache import RunStore, StoreView

MAP_BYTES = 128 << 20
"""Most bytes of maps kept in memory for reuse; half of what a queue keeps of all results."""


class RecentMaps(StoreView):
    """The store, with recently read maps kept in memory, so that another smoothing does not read them again."""

    def __init__(self, store: RunStore):
        super().__init__(store)
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self.nbytes = 0

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._recent]
        read = super().maps(missing) if missing else {}
        maps = {key: read[key] if key in read else self._recent[key] for key in keys if key in read or key in self._recent}
        for key, values in read.items():
            self._recent[key] = values
            self.nbytes += values.nbytes
        while self.nbytes > MAP_BYTES:
            self.nbytes -= self._recent.popitem(last=False)[1].nbytes
        return maps
