"""Find the body and the head of a network in a checkpoint where they have other names than in the architecture.

Fine-tuning replaces the head, in place or outside (`backbone.*` and `head.*`), or cuts the body into its numbered children
(`nn.Sequential(*children)`, as fastai does).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.loading.heads import Head, fastai_head, is_replaceable, recognise
from attrlib.models.loading.outline import COUNTER, Outline, outline_of
from attrlib.models.loading.prefixes import below, listed, prefixes_of
from attrlib.models.options import Options


@dataclass(frozen=True)
class Candidate:
    """A reading of a checkpoint.

    Attributes:
        state: Weights under the keys of the architecture.
        beside: Keys of the file that are left out.
        path: Path of the module that `head` replaces; None if the head is that of the architecture.
        head: The head that replaces it.
        weights: Weights of that head.
        children: Number of children of the architecture that form the body, if `head` follows them with its own pooling; 0 if not.
        notes: What was assumed.
    """

    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()
    path: str | None = None
    head: Head | None = None
    weights: Mapping[str, Tensor] | None = None
    children: int = 0
    notes: tuple[str, ...] = ()


def head_paths(name: str, options: Options) -> list[str]:
    """Return the paths of the modules whose size depends on the number of classes."""
    two = [outline_of(name, {**options, "num_classes": n}).shapes for n in (10, 11)]
    return list(dict.fromkeys(key.rpartition(".")[0] for key, shape in two[0].items() if two[1].get(key) != shape))


def candidates(name: str, options: Options, state: Mapping[str, Tensor], prefix: str) -> Iterator[Candidate]:
    """Yield the readings of a checkpoint whose head is not that of the architecture.

    Args:
        name: Name of the architecture, which may end with options.
        options: Options besides those in the name.
        state: The whole state dict.
        prefix: Prefix of the body.
    """
    paths, outline = head_paths(name, options), outline_of(name, options)
    if len(paths) != 1 or not paths[0]:
        return
    path = paths[0]
    features = _features(outline.module.get_submodule(path))
    yield from _replaced(outline, path, state, prefix)
    bodies = [(prefix, below(state, prefix)), *_numbered(outline, path, state)]
    for start, body in bodies:
        kept = {key: value for key, value in body.items() if not key.startswith(f"{path}.")}
        if not _holds_body(outline, path, kept) or len(kept) < len(body):
            continue
        yield from _assembled(outline, path, features, state, start, kept)


def _replaced(outline: Outline, path: str, state: Mapping[str, Tensor], prefix: str) -> Iterator[Candidate]:
    """Yield readings in which another head stands in place of the architecture's."""
    body, beside = below(state, prefix), tuple(key for key in state if not key.startswith(prefix))
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        place = ".".join(parts[:length])
        module = outline.module.get_submodule(place)
        head = recognise(below(body, f"{place}.")) if is_replaceable(module) else None
        if head is not None and head.features == _features(module):
            rest = {key: value for key, value in body.items() if not key.startswith(f"{place}.")}
            yield Candidate(rest, beside, place, head, below(body, f"{place}."), notes=_notes(place, head))


def _assembled(
    outline: Outline, path: str, features: int, state: Mapping[str, Tensor], start: str, body: dict[str, Tensor]
) -> Iterator[Candidate]:
    """Yield readings in which the head stands outside of the body."""
    parents = start.split(".")[:-1]
    for length in range(len(parents) - 1, -1, -1):
        parent = "".join(f"{part}." for part in parents[:length])
        outside = below({key: value for key, value in state.items() if not key.startswith(start)}, parent)
        heads: dict[str, tuple[Head, int]] = {}
        for group in dict.fromkeys(key.partition(".")[0] for key in outside):
            weights = below(outside, f"{group}.")
            head = recognise(weights)
            if head is not None and head.features == features:
                heads[group] = head, 0
            elif (cut := _children(outline, body)) and (head := fastai_head(weights, features)) is not None:
                heads[group] = head, cut
        if len(heads) > 1:
            raise ModelError(
                f"the weights under {start} could belong to the heads {' and '.join(heads)}; build the model in Python, load the file, "
                "and use attrlib.wrap_model"
            )
        for group, (head, cut) in heads.items():
            beside = tuple(key for key in state if not key.startswith((start, f"{parent}{group}.")))
            said = f"assembled from {start}* and {parent}{group}.*"
            yield Candidate(body, beside, path, head, below(outside, f"{group}."), cut, (said, *_notes(f"{parent}{group}", head)))


def _numbered(outline: Outline, path: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the bodies in which the children of the architecture are numbered, with their prefixes."""
    children = {child: str(i) for i, (child, _) in enumerate(outline.module.named_children())}
    numbered = {
        f"{children[key.partition('.')[0]]}.{key.partition('.')[2]}": key
        for key in outline.shapes
        if key.partition(".")[0] in children and not key.startswith(f"{path}.")
    }
    for prefix in list(prefixes_of(state, numbered))[:1]:
        found = below(state, prefix)
        yield prefix, OrderedDict((numbered.get(key, key), value) for key, value in found.items())


def _children(outline: Outline, body: Mapping[str, Tensor]) -> int:
    """Return how many children form the body before the pooling."""
    children = list(outline.module.named_children())
    used = {key.partition(".")[0] for key in body}
    kept = max((i for i, (name, _) in enumerate(children) if name in used), default=-1) + 1
    # Children without weights, such as activations, leave no keys.
    return kept if all(name in used or next(child.parameters(), None) is None for name, child in children[:kept]) else 0


def _holds_body(outline: Outline, path: str, body: Mapping[str, Tensor]) -> bool:
    expected = [key for key in outline.shapes if not key.startswith(f"{path}.") and not key.endswith(COUNTER)]
    return bool(expected) and all(key in body for key in expected)


def _features(module: nn.Module) -> int:
    return next((part.in_features for part in module.modules() if isinstance(part, nn.Linear)), 0)


def _notes(place: str, head: Head) -> tuple[str, ...]:
    return (f"the head {place!r} was rebuilt from its keys: assumed {head.assumed}",) if head.assumed else ()


def unrecognised(state: Mapping[str, Tensor]) -> str:
    """Return keys and shapes of a head as text."""
    return listed([f"{key} {tuple(value.shape)}" for key, value in state.items()], 6)
