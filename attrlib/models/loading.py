"""From the state dict of a checkpoint to a network with these weights: find the part, the names, the options and the head that fit."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attrlib.errors import ModelError, existing_file
from attrlib.models.assembly import Candidate, candidates, head_paths, unrecognised
from attrlib.models.checkpoints import Checkpoint, read_checkpoint, split_key
from attrlib.models.heads import recognise
from attrlib.models.inference import infer
from attrlib.models.options import Options, Value, split_options, structure, value_text
from attrlib.models.outline import Misfits, Outline, accepted, outline_of
from attrlib.models.prefixes import below, listed, prefixes_of, same_values, without_wrappers
from attrlib.models.renames import renamed, restore_resized
from attrlib.models.reparametrised import folded, in_float32
from attrlib.models.sources import Built, builder
from attrlib.models.state_dicts import COUNTER, load_state, misfit_text
from attrlib.models.suggest import suggest
from attrlib.specs import Size

# Heads that only training uses, and the counters that profilers leave behind.
_UNUSED = re.compile(r"(AuxLogits|aux\d?|aux_head|aux_logits)\.|(^|\.)(total_ops|total_params)$")
_WRAP = "build the model in Python, load the file, and use attrlib.wrap_model"


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a checkpoint.

    Attributes:
        built: The network, with notes of what was read from the checkpoint, assumed and left out.
        architecture: Name of the architecture with all options but the number of classes, those read from the checkpoint included.
    """

    built: Built
    architecture: str


@dataclass(frozen=True)
class _Fit:
    candidate: Candidate
    options: dict[str, Value]
    outline: Outline
    misfits: Misfits


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
        prefix = _prefix(plain, {key: tuple(value.shape) for key, value in built.module.state_dict().items()}, source)
        if _fits(built.module, below(plain, prefix)):
            load_state(built.module, below(plain, prefix), source)
            return Loaded(built, structure(name, given))
    fit = _best(name, given, plain, source, size)
    if len(fit.misfits):
        raise _refusal(name, given, fit, source)
    _check_heads_beside(name, fit, plain, source)
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


def _prefix(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> str:
    """Return the prefix whose keys cover most of the network. Raises `ModelError` if two cover as much with other values."""
    counts = prefixes_of(state, [key for key in shapes if not key.endswith(COUNTER)])
    if not counts:
        return ""
    most = max(counts.values())
    tied = [prefix for prefix, count in counts.items() if count == most]
    fitting = {p: sum(tuple(state[p + key].shape) == shape for key, shape in shapes.items() if p + key in state) for p in tied}
    tied = [prefix for prefix in tied if fitting[prefix] == max(fitting.values())]
    if "" in tied or 2 * most < len(shapes):
        return tied[0]
    rivals = [prefix for prefix in tied[1:] if not same_values(state, tied[0], prefix)]
    if rivals:
        names = [prefix.removesuffix(".") for prefix in (tied[0], *rivals)]
        ways = " or ".join(f"{source}#{name}" for name in names)
        raise ModelError(f"{source} holds several sets of weights that fit, {' and '.join(names)}; choose one: write {ways}")
    return tied[0]


def _best(name: str, given: Options, state: dict[str, Tensor], source: str, size: Size | None) -> _Fit:
    """Return the reading of the checkpoint that fits the architecture best."""
    best: _Fit | None = None
    for candidate in _readings(name, given, state, source):
        fit = _fit(name, given, candidate, size)
        if best is None or len(fit.misfits) < len(best.misfits):
            best = fit
        if not len(best.misfits):
            break
    assert best is not None
    return best


def _readings(name: str, given: Options, state: dict[str, Tensor], source: str) -> Iterator[Candidate]:
    outline = outline_of(name, given)
    prefix = _prefix(state, outline.shapes, source)
    body, beside = below(state, prefix), tuple(key for key in state if not key.startswith(prefix))
    body, foreign = _without_foreign(body, outline) if not prefix else (body, ())
    yield Candidate(body, beside + foreign)
    classes = {**split_options(name)[1], **given}.get("num_classes")
    for candidate in candidates(name, given, state, prefix):
        if candidate.head is None or classes in (None, _outputs(candidate.head.module)):
            yield candidate
    for start in dict.fromkeys((prefix, *_shared_prefixes(state))):
        original = below(state, start)
        for new in renamed(name, outline.module, original):
            restore_resized(new, original)
            left_out = tuple(key for key in state if not key.startswith(start))
            yield Candidate(new, left_out, notes=(f"renamed the keys of {source} by the rules of {name.partition(':')[0]}",))


def _fit(name: str, given: Options, candidate: Candidate, size: Size | None) -> _Fit:
    """Infer the options of a reading, and compare."""
    options = dict(given)
    if candidate.head is not None:
        options["num_classes"] = _outputs(candidate.head.module)
    state = candidate.state
    plain = outline_of(name, options)
    if candidate.path is not None:
        # The head fits by itself, so it must not matter.
        own = {key: torch.empty(shape, device="meta") for key, shape in plain.shapes.items() if key.startswith(f"{candidate.path}.")}
        state = {**state, **own}
    if 2 * sum(key in state for key in plain.shapes) >= len(plain.shapes):
        options |= infer(name, options, state, size)
    outline = outline_of(name, options)
    misfits = outline.misfits(state)
    unused = [key for key in misfits.extra if _UNUSED.search(key)]
    if unused and len(unused) == len(misfits):
        kept = {key: value for key, value in candidate.state.items() if key not in unused}
        candidate, misfits = replace(candidate, state=kept, beside=(*candidate.beside, *unused)), Misfits()
    return _Fit(candidate, options, outline, misfits)


def _check_heads_beside(name: str, fit: _Fit, state: Mapping[str, Tensor], source: str) -> None:
    """Raise `ModelError` if a head lies beside a complete network, and reads its features or its outputs."""
    if fit.candidate.head is not None or not fit.candidate.beside:
        return
    shapes = [fit.outline.shapes.get(f"{path}.weight", ()) for path in head_paths(name, fit.options)]
    widths = {width for shape in shapes if len(shape) == 2 for width in shape}
    beside = {key: state[key] for key in fit.candidate.beside}
    copies = tuple(prefix for prefix, count in prefixes_of(beside, fit.outline.shapes).items() if 2 * count >= len(fit.outline.shapes))
    beside = {key: value for key, value in beside.items() if not key.startswith(copies)}
    for place in dict.fromkeys(key.rpartition(".")[0].rstrip(".0123456789") for key in beside):
        head = recognise(below(beside, f"{place}."))
        if head is not None and head.features in widths:
            shown = ", ".join(dict.fromkeys(key.partition(".")[0] for key in state if key not in beside))
            raise ModelError(
                f"{source} holds a whole network under {shown} and another head beside it, {place}, that reads {head.features} features; "
                f"to use the network without it write {source}#{shown}; else {_WRAP}"
            )


def _build(name: str, fit: _Fit, source: str) -> Built:
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


def _without_foreign(body: dict[str, Tensor], outline: Outline) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leave out whole numbers beside the children of the network: counters and metrics. Anything else could belong to a layer."""
    own = {key.partition(".")[0] for key in (*outline.shapes, *outline.constants)}
    foreign = tuple(key for key, value in body.items() if key.partition(".")[0] not in own and not value.is_floating_point())
    return below({key: value for key, value in body.items() if key not in foreign}, ""), foreign


def _shared_prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield prefixes that most keys share, from the empty one."""
    prefix, keys = "", list(state)
    for _ in range(6):
        yield prefix
        heads: dict[str, int] = {}
        for key in keys:
            head = key[len(prefix) :].partition(".")[0]
            heads[head] = heads.get(head, 0) + 1
        best = max(heads, key=lambda head: heads[head], default="")
        if not best or heads[best] * 2 < len(state):
            return
        prefix = f"{prefix}{best}."
        keys = [key for key in keys if key.startswith(prefix)]


def _outputs(head: nn.Module) -> int:
    return [part for part in head.modules() if isinstance(part, nn.Linear)][-1].out_features


def _notes_of(fit: _Fit, state: Mapping[str, Tensor], defaults: Options) -> Iterator[str]:
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


def _refusal(name: str, given: Options, fit: _Fit, source: str) -> ModelError:
    """Return the error that names why a checkpoint does not fit."""
    base, named = split_options(name)
    state, misfits = fit.candidate.state, fit.misfits
    if named or given:
        read = infer(base, {}, state, None)
        outline = outline_of(base, read)
        wanted = {**named, **given}
        other = {key: read.get(key, accepted(base).get(key)) for key in wanted}
        wrong = [key for key in wanted if other[key] != wanted[key]]
        if not len(outline.misfits(state)) and wrong == ["num_classes"] and given:
            classes = value_text(other["num_classes"])
            return ModelError(
                f"{source} has {classes} classes, but its model card names {given['num_classes']}; use the card that belongs to it"
            )
        if not len(outline.misfits(state)) and wrong:
            asked = " and ".join(f"{key}={value_text(wanted[key])}" for key in wrong)
            has = " and ".join(f"{key}={value_text(other[key])}" for key in wrong)
            return ModelError(f"{source} does not fit {base} with {asked}: it has {has}; leave that out, or choose another file")
    paths = head_paths(base, fit.options)
    below_head = tuple(f"{path}." for path in paths)
    odd = [key for key in (*misfits.missing, *misfits.extra, *misfits.reshaped) if not key.startswith(below_head)]
    if not odd and len(paths) == 1:
        head = below(state, below_head[0])
        return ModelError(
            f"the body of {source} fits {base}, but its head {paths[0]} is not one that can be rebuilt ({unrecognised(head)}); {_WRAP}"
        )
    reshaped = [f"{key} {tuple(state[key].shape)} for {fit.outline.shapes[key]}" for key in misfits.reshaped]
    text = misfit_text(list(misfits.missing), list(misfits.extra), reshaped)
    if not misfits.missing and not misfits.extra and all("pos" in key for key in misfits.reshaped):
        return ModelError(
            f"{source} was trained with images of another shape than {base} takes ({text}); give that shape as input_size, (height, width)"
        )
    similar = [other for other in suggest(state) if other != base][:3]
    advice = f"it looks like {' or '.join(similar)}" if similar else "choose the architecture that it was saved from"
    return ModelError(f"{source} does not fit this architecture ({text}); {advice}")
