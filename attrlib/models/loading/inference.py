"""Infer the options of an architecture from the keys and shapes of a checkpoint.

Options are proposed from what does not fit, and verified: the architecture is built with them, without values, and compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, product

from torch import Tensor

from attrlib.errors import ModelError
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.loading.outline import Misfits, Outline, Shape, accepted, outline_of
from attrlib.models.options import Options, Value, split_options
from attrlib.specs import LARGEST, Size

_MOST_TRIALS = 48
_POOLS = ("avg", "token", "map", "catavgmax", "max", "")
_WORDS: dict[str, tuple[Value, ...]] = {"init_values": (1e-5, None), "reg_tokens": (0,)}
_HINTS = {"init_values": "gamma"}
_NO_TOKEN: dict[str, Value] = {"class_token": False, "global_pool": "avg"}
_STRIDES = (32, 16, 14, 8, 4)


def infer(name: str, given: Options, state: Mapping[str, Tensor], size: Size | None) -> dict[str, Value]:
    """Return the options, besides the given ones, with which an architecture fits a state dict best.

    Args:
        name: Name of the architecture, which may end with options.
        given: Options besides those in the name, which are kept.
        state: The state dict, without prefix.
        size: Input size that was asked for, tried first.

    Raises:
        ModelError: The checkpoint has more than `MOST_CLASSES` classes.
    """
    base, named = split_options(name)
    fixed = {**named, **given}
    names = {key: value for key, value in accepted(base).items() if key not in fixed}
    found: dict[str, Value] = {}
    best = outline_of(base, fixed)
    misfits = best.misfits(state)
    # Options change a few shapes; another width, or another network, changes most.
    while len(misfits) > 0 and 2 * len(misfits.reshaped) < len(best.shapes):
        improved = None
        for proposal in islice(_proposals(best, misfits, state, {**names, **found}, size), _MOST_TRIALS):
            try:
                trial = outline_of(base, {**fixed, **found, **proposal})
            except ModelError:
                continue
            left = trial.misfits(state)
            if len(left) < len(misfits if improved is None else improved[2]):
                improved = proposal, trial, left
                # What fits completely cannot be improved.
                if not len(left):
                    break
        if improved is None:
            break
        found, best, misfits = {**found, **improved[0]}, improved[1], improved[2]
    found = {key: value for key, value in found.items() if value != names[key]}
    if size is not None and "img_size" in names and found.keys() - {"num_classes", "img_size"}:
        # The size may be invisible: windows can have the same tables at several sizes.
        with suppress(ModelError):
            if len(outline_of(base, {**fixed, **found, "img_size": _number(size)}).misfits(state)) <= len(misfits):
                found["img_size"] = _number(size)
    return found


def _proposals(
    outline: Outline, misfits: Misfits, state: Mapping[str, Tensor], names: Options, size: Size | None
) -> Iterator[dict[str, Value]]:
    pairs = [(key, outline.shapes[key], tuple(state[key].shape)) for key in misfits.reshaped]
    pairs += [(key, outline.constants[key], tuple(state[key].shape)) for key in misfits.extra if key in outline.constants]
    added = [tuple(state[key].shape) for key in misfits.extra if key not in outline.constants]
    makers: dict[str, Iterator[int]] = {"num_classes": _classes(pairs, added), "in_chans": _channels(pairs)}
    for option, proposals in makers.items():
        if option in names:
            for number in dict.fromkeys(proposals):
                yield {option: number}
    if "reg_tokens" in names:
        for key in (*misfits.extra, *misfits.reshaped):
            if key.endswith("reg_token") and state[key].ndim == 3:
                yield {"reg_tokens": state[key].shape[1]}
    numbers: dict[str, list[Value]] = {
        "window_size": list(dict.fromkeys(_windows(pairs))) if "window_size" in names else [],
        **{option: list(dict.fromkeys(_sizes(outline, pairs, size))) for option in ("img_size", "image_size") if option in names},
    }
    for option, values in numbers.items():
        yield from ({option: value} for value in values)
    if numbers["window_size"] and numbers.get("img_size"):
        yield from ({"window_size": w, "img_size": s} for w, s in product(numbers["window_size"], numbers["img_size"]))
    if misfits.missing or misfits.extra or any(new[1:] != old[1:] for _, old, new in pairs):
        yield from _switches(names, (*misfits.missing, *misfits.extra))
        sizes = numbers.get("img_size") or []
        if "class_token" in names:
            yield from ({"img_size": s, **_NO_TOKEN} for s in sizes)
        if "no_embed_class" in names and size is not None:
            # Without a size, patches beside a class token could not be told from those of an image that is no square.
            yield {"img_size": _number(size), "no_embed_class": True}


def _classes(pairs: list[tuple[str, Shape, Shape]], added: list[Shape]) -> Iterator[int]:
    """Return numbers of classes: the heads, linear or convolutions, have one row for each; some architectures have none by default."""
    changed = [new[0] for _, old, new in pairs if old and len(old) == len(new) and old[0] != new[0]]
    changed += [shape[0] for shape in added if len(shape) in (2, 4)][-2:]
    for classes in sorted(set(changed), key=changed.count, reverse=True)[:4]:
        if classes > MOST_CLASSES:
            raise ModelError(
                f"the checkpoint has {classes} classes, more than the {MOST_CLASSES} that can be loaded; choose one with fewer"
            )
        yield classes


def _channels(pairs: list[tuple[str, Shape, Shape]]) -> Iterator[int]:
    """Return numbers of channels: the first convolution, or linear patch embedding, has a multiple of them as inputs."""
    for _, old, new in pairs:
        if len(old) == len(new) and len(old) in (2, 4) and old[0] == new[0] and old[1] % 3 == 0 and old[1] != new[1]:
            each = old[1] // 3
            if new[1] % each == 0:
                yield new[1] // each


def _windows(pairs: list[tuple[str, Shape, Shape]]) -> Iterator[int]:
    """Return windows: tables of relative positions have (2 w - 1)^2 rows, or two sides of that length."""
    for key, _, new in pairs:
        if "relative" in key and new:
            # BEiT's tables have three more rows, for the class token.
            for rows in (new[0], new[0] - 3) if len(new) == 2 else ():
                side = math.isqrt(max(rows, 0))
                if side * side == rows and side % 2:
                    yield (side + 1) // 2
            if len(new) == 4 and new[1] % 2:
                yield (new[1] + 1) // 2


def _sizes(outline: Outline, pairs: list[tuple[str, Shape, Shape]], size: Size | None) -> Iterator[Value]:
    """Return input sizes: position embeddings have one entry for each patch, and windows cannot be larger than a stage."""
    if size is not None:
        yield _number(size)
    embedded = [(key, old, new) for key, old, new in pairs if "pos" in key and "relative" not in key]
    for step in dict.fromkeys((*_patches(outline), *_STRIDES)):
        for _, old, new in embedded:
            for entries in dict.fromkeys(n for o, n in zip(old, new, strict=False) if o != n):
                for beside in (1, 0, 2, 5, 4):
                    side = math.isqrt(max(entries - beside, 0))
                    if side and side * side == entries - beside and side * step <= LARGEST:
                        yield side * step
    for window in dict.fromkeys(_windows(pairs)):
        yield from (window * step for step in _STRIDES if window * step <= LARGEST)
    native = outline.preprocessing.size[0]
    for _, old, new in embedded:
        if len(old) == len(new) == 4:
            yield from (native * n // o for o, n in zip(old, new, strict=True) if o != n and native * n // o <= LARGEST)


def _number(size: Size) -> Value:
    return size[0] if size[0] == size[1] else size


def _patches(outline: Outline) -> Iterator[int]:
    """Return the side of the patches: the kernel of the convolution that embeds them."""
    for key, shape in outline.shapes.items():
        if len(shape) == 4 and shape[2] == shape[3] > 1 and ("patch" in key or "proj" in key):
            yield shape[2]
            return


def _switches(names: Options, keys: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Return options that add or remove keys: the kind of pooling, and whatever is on or off, first what sounds like the keys."""
    if "class_token" in names:
        yield _NO_TOKEN
    if "no_embed_class" in names:
        yield {"no_embed_class": True}
    if "global_pool" in names:
        for pool in _POOLS:
            yield {"global_pool": pool}
        if "fc_norm" in names:
            yield {"global_pool": "avg", "fc_norm": False}
    if not keys:
        return
    text = " ".join(keys).lower().replace("_", "")
    for option, value in sorted(names.items(), key=lambda item: not _sounds_like(item[0], text)):
        if isinstance(value, bool) and option != "no_embed_class":
            yield {option: not value}
        yield from ({option: other} for other in _WORDS.get(option, ()))


def _sounds_like(option: str, keys: str) -> bool:
    stem = _HINTS.get(option, option).lower().replace("_", "").removeprefix("use").removesuffix("s")
    return stem in keys or stem.removesuffix("logit") in keys
