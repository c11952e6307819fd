"""Runs whose maps do not fit into the store: maps live in memory until all protocols have judged them, and are not kept."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from attrlib.engine.cache import RunStore, StoreView
from attrlib.engine.evaluations import Evaluation
from attrlib.models import Classifier
from attrlib.specs import MethodSpec

MEMORY = 256 << 20
"""Most bytes of maps in memory: those of a chunk by many methods."""


class StreamingStore(StoreView):
    """A store that keeps new maps in memory only, the latest ones.

    Args:
        store: Where everything else is looked up and stored.
    """

    def __init__(self, store: RunStore):
        super().__init__(store)
        self._latest: OrderedDict[str, Tensor] = OrderedDict()
        self._nbytes = 0

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        latest = {key: self._latest[key] for key in keys if key in self._latest}
        absent = [key for key in keys if key not in latest]
        return latest | (super().maps(absent) if absent else {})

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        for key, values in maps.items():
            if key not in self._latest:
                # As the store would return them.
                self._latest[key] = self.rounded(values.detach()).float().cpu()
                self._nbytes += self._latest[key].nbytes
        while self._nbytes > MEMORY:
            self._nbytes -= self._latest.popitem(last=False)[1].nbytes


def map_bytes(missing: Iterable[tuple[Evaluation, int]], model: Classifier, dtype: str) -> int:
    """Return about how many bytes the maps take that protocols of the same items must still judge.

    Args:
        missing: Each evaluation with the number of its missing results.
        model: The model to explain.
        dtype: Precision of cached maps.
    """
    largest: dict[MethodSpec, float] = {}
    for each, count in missing:
        _channels, height, width = model.layer(each.method.layer).shape
        size = height * width * each.protocol.cost.area * (2 if dtype == "float16" else 4)
        # Protocols share the maps of a method.
        largest[each.method] = max(largest.get(each.method, 0.0), count * each.protocol.cost.targets * size)
    return int(sum(largest.values()))


def streaming_note(nbytes: int, limit: int) -> str:
    """Return the note on a run whose maps take more bytes than the store keeps."""
    return (
        f"the maps of this run take about {nbytes / 2**30:.3g} GB, and the store keeps at most {limit / 2**30:.3g} GB: maps are not kept, "
        "scores are; raise ATTRLIB_CACHE_BYTES to keep them"
    )
