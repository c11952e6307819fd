"""Find the weights in the content of a checkpoint, wherever a trainer puts them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from attrlib.errors import ModelError, unknown
from attrlib.models.files.formats import ADVICE
from attrlib.models.files.stand_ins import NumPyArray, Opaque
from attrlib.models.files.storages import StoredTensor, Unstored

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module", "params"),
    *("teacher", "student", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "averaged_model"),
)
"""Keys under which trainers put weights. The first of them is read: weights before their average, the teacher before the student."""
_DEPTH = 8
_MOST_VISITED = 100_000


@dataclass(frozen=True)
class Weights:
    """The mapping that holds the tensors, and the mappings around it, the outermost first and itself last."""

    levels: tuple[Mapping, ...]
    path: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> Mapping:
        """Keys with their tensors, and whatever lies between these."""
        return self.levels[-1]


def find_weights(content: object, name: str, key: str | None = None) -> Weights:
    """Return the weights in the content of a checkpoint.

    Args:
        content: The content of the file as plain data.
        name: Name of the file, for messages.
        key: Keys that lead to the weights, separated by `/`; None searches for the usual ones.

    Raises:
        ModelError: There are none, several without a usual name, or none under this key.
    """
    search = _Search(name)
    start: tuple[Mapping, ...] = ()
    path: tuple[str, ...] = tuple(key.split("/")) if key else ()
    inner = content
    for part in path:
        level = mapping_of(inner)
        if level is None or part not in level:
            raise ModelError(unknown(f"key of {name}", key, candidates(content), f"Write FILE#KEY, as in {name}#state_dict"))
        start, inner = (*start, level), level[part]
    found = search.descend(inner, path)
    if found is None:
        raise _no_weights(content if key is None else inner, name)
    return Weights((*start, *found.levels), found.path, found.notes)


def mapping_of(value: object) -> Mapping | None:
    """Return a dictionary, or the items of an object of a subclass of dict; None for anything else."""
    if isinstance(value, Opaque):
        return value.items or None
    return value if isinstance(value, Mapping) else None


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor, or a NumPy array of numbers."""
    return isinstance(value, StoredTensor | Unstored) or (isinstance(value, NumPyArray) and value.is_numeric)


def candidates(content: object) -> list[str]:
    """Return the keys, as `find_weights` takes them, of all mappings that hold tensors with dotted names."""
    paths = []
    for path, value in _walk(content):
        if isinstance(value, Mapping) and path and _has_parameters(value):
            paths.append("/".join(path)[:120])
    return paths


def left_out(weights: Weights) -> list[str]:
    """Return `KEY (CLASS)` for what lies beside the weights and was not read, because it could run code."""
    found: dict[str, str] = {}
    for depth, level in enumerate(weights.levels):
        inner = weights.path[depth] if depth < len(weights.path) else None
        for path, value in _walk(level):
            if path and path[0] != inner and isinstance(value, Opaque) and not value.harmless:
                found.setdefault(path[0], f"{path[0]!r} ({value.title})")
    return list(found.values())


def refused(opaque: Opaque, name: str, key: str) -> ModelError:
    """Return the error for an object in place of weights."""
    under = f" under {key[:80]!r}" if key else ""
    advice = "save torch.save(model.state_dict(), FILE) in place of the model" if opaque.is_module else ADVICE
    return ModelError(f"{name} holds a pickled {opaque.title}{under}; loading it could run code, so it was not loaded; {advice}")


class _Search:
    """A search through nested mappings that visits each of them once, so that it ends for recursive ones."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.visited: set[int] = set()

    def descend(self, content: object, path: tuple[str, ...]) -> Weights | None:
        """Return the weights in or below a mapping."""
        level = mapping_of(content)
        if level is None or id(level) in self.visited or len(path) > _DEPTH:
            return None
        self.visited.add(id(level))
        usual = [found for key in WRAPPERS if (found := self.descend(level.get(key), (*path, key)))]
        if usual:
            first = usual[0]
            return Weights((level, *first.levels), first.path, (*first.notes, *self._alternatives(first, usual[1:])))
        if _has_parameters(level):
            return Weights((level,), path)
        others = [key for key, value in level.items() if isinstance(key, str) and _has_parameters(mapping_of(value))]
        if len(others) == 1:
            note = f"the weights were read from {others[0][:80]!r} of {self.name}"
            return Weights((level, mapping_of(level[others[0]]) or {}), (*path, others[0]), (note,))
        if others:
            listed = ", ".join(repr(key[:80]) for key in others[:6])
            raise ModelError(f"{self.name} holds weights under {listed}; choose one of them as FILE#KEY")
        return Weights((level,), path) if any(is_tensor(value) for value in level.values()) else None

    def _alternatives(self, chosen: Weights, others: list[Weights]) -> list[str]:
        if not others:
            return []
        listed = ", ".join(repr("/".join(other.path)) for other in others)
        last = "/".join(others[0].path)
        return [
            f"the weights were read from {'/'.join(chosen.path)!r}; {self.name} also holds {listed}, to be chosen as {self.name}#{last}"
        ]


def _has_parameters(level: Mapping | None) -> bool:
    return level is not None and any(isinstance(key, str) and "." in key and is_tensor(value) for key, value in level.items())


def _walk(content: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield everything below a value with the keys that lead to it, breadth first, each container once and not without end."""
    queue: list[tuple[tuple[str, ...], object]] = [((), content)]
    seen: set[int] = set()
    for path, value in queue:
        yield path, value
        if id(value) in seen or len(path) > _DEPTH:
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple):
            below: Iterable[tuple[object, object]] = enumerate(value)
        elif isinstance(value, Opaque):
            below = (*value.items.items(), *value.attributes.items())
        else:
            below = value.items() if isinstance(value, Mapping) else ()
        queue.extend(((*path, str(key)[:80]), inner) for key, inner in below if isinstance(inner, Opaque | Mapping | list | tuple))
        if len(queue) > _MOST_VISITED:
            return


def _no_weights(content: object, name: str) -> ModelError:
    for path, value in _walk(content):
        if isinstance(value, Opaque) and not value.harmless:
            return refused(value, name, "/".join(path))
    return ModelError(f"{name} holds no weights; expected a state dict, alone or under one of {', '.join(WRAPPERS[:4])}")
