"""From the state dict of a checkpoint to a network with these weights: find the part, the names, the options and the head that fit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from attrlib.errors import ModelError, existing_file
from attrlib.models.checkpoints import Checkpoint, read_checkpoint, split_key
from attrlib.models.loading.fit import Fit, best_fit, choose_prefix
from attrlib.models.loading.outline import accepted
from attrlib.models.loading.prefixes import below, listed, without_wrappers
from attrlib.models.loading.refusals import check_heads_beside, refusal
from attrlib.models.loading.reparametrised import folded, in_float32
from attrlib.models.loading.state_dicts import COUNTER, load_state
from attrlib.models.options import Options, Value, split_options, structure, value_text
from attrlib.models.sources import Built, builder
from attrlib.specs import Size


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a checkpoint.

    Attributes:
        built: The network, with notes of what was read from the checkpoint, assumed and left out.
        architecture: Name of the architecture with all options but the number of classes, those read from the checkpoint included.
    """

    built: Built
    architecture: str


def read_part(location: str | Path) -> tuple[Checkpoint, str]:
    """Read `FILE` or `FILE#KEY`, and return the checkpoint and the prefix of the weights to use, if the key is one.

    A key leads to weights within the file, or is the prefix of some of the weights, as in `my.pth#ema_model`.

    Raises:
        ModelError: The file cannot be read, or has no such key.
    """
    path, key = split_key(location)
    try:
        return read_checkpoint(location), ""
    except ModelError as error:
        if key is None or existing_file(path) is None:
            raise
        whole = read_checkpoint(path)
        if not any(name.startswith(f"{key}.") for name in whole.state):
            raise error from None
        return whole, key


def load_weights(
    name: str,
    state: Mapping[str, Tensor],
    source: str,
    *,
    classes: int | None = None,
    size: Size | None = None,
    part: str = "",
    resize: Callable[[Built], None] | None = None,
) -> Loaded:
    """Build an architecture and load the weights of a checkpoint.

    Args:
        name: Name of the architecture, which may end with options.
        state: The state dict, as the file holds it.
        source: Name of the file, for messages.
        classes: Number of classes if it is known.
        size: Input size that was asked for.
        part: Prefix of the weights to use, where a checkpoint holds several sets.
        resize: Changes the input size of the network that is built with `classes`; tried before options are inferred.

    Raises:
        ModelError: The weights do not fit; the message names the cause.
    """
    given: dict[str, Value] = {} if classes is None else {"num_classes": classes}
    plain, notes = _plain(state, part)
    if resize is not None:
        built = builder(name)(given, False)
        resize(built)
        prefix = choose_prefix(plain, {key: tuple(value.shape) for key, value in built.module.state_dict().items()}, source)
        if _fits(built.module, below(plain, prefix)):
            load_state(built.module, below(plain, prefix), source)
            return Loaded(built, structure(name, given))
    fit = best_fit(name, given, plain, source, size)
    if len(fit.misfits):
        raise refusal(name, given, fit, source)
    check_heads_beside(name, fit, plain, source)
    built = _build(name, fit, source)
    notes = (*notes, *_notes_of(fit, plain, accepted(split_options(name)[0])))
    return Loaded(replace(built, notes=(*built.notes, *notes)), structure(name, fit.options))


def _plain(state: Mapping[str, Tensor], part: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict, or a part of it, with plain weights in float32."""
    plain = without_wrappers(state)
    plain = below(plain, f"{part}.") if part else plain
    plain, folds = folded(plain)
    plain, casts = in_float32(plain)
    return plain, (*folds, *casts)


def _build(name: str, fit: Fit, source: str) -> Built:
    """Build the architecture with its options and head, and load the weights."""
    built, candidate = builder(name)(fit.options, False), fit.candidate
    state = below(candidate.state, "")
    for key in [key for key in state if key not in fit.outline.shapes]:
        del state[key]
    if candidate.head is None or candidate.path is None or candidate.weights is None:
        load_state(built.module, state, source)
        return built
    head, module = candidate.head.module.to_empty(device="cpu"), built.module
    load_state(head, candidate.weights, source)
    if candidate.children:
        _load_body(module, state, candidate.path, source)
        body = nn.Sequential(*list(module.children())[: candidate.children])
        return replace(built, module=nn.Sequential(body, head))
    module.set_submodule(candidate.path, nn.Identity())
    load_state(module, state, source)
    module.set_submodule(candidate.path, head)
    return built


def _load_body(module: nn.Module, state: Mapping[str, Tensor], path: str, source: str) -> None:
    own = {key: value for key, value in module.state_dict().items() if key.startswith(f"{path}.")}
    load_state(module, {**state, **own}, source)


def _fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    expected = {key: value for key, value in module.state_dict().items() if not key.endswith(COUNTER)}
    return all(key in state and state[key].shape == value.shape for key, value in expected.items()) and all(
        key in expected or key.endswith(COUNTER) for key in state
    )


def _notes_of(fit: Fit, state: Mapping[str, Tensor], defaults: Options) -> Iterator[str]:
    read = [f"{key}={value_text(value)}" for key, value in sorted(fit.options.items()) if defaults.get(key) != value]
    if read:
        yield f"read from the checkpoint: {', '.join(read)}"
    yield from fit.candidate.notes
    if beside := fit.candidate.beside:
        yield f"left out: {listed(beside)} ({len(beside)} {'key' if len(beside) == 1 else 'keys'} beside the model)"
    for key in beside:
        if (
            key.rpartition(".")[2].strip("_") in ("mean", "std", "image_mean", "image_std", "pixel_mean", "pixel_std")
            and state[key].numel() < 16
        ):
            values = "/".join(f"{value:.4g}" for value in state[key].flatten().tolist())
            yield f"the file holds {key} {values}: if the network normalises its input by it, give mean and std"
