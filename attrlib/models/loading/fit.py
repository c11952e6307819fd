"""Find the reading of a checkpoint that fits an architecture: the prefix, the names, the options and the head."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.loading.assembly import Candidate, candidates
from attrlib.models.loading.inference import infer
from attrlib.models.loading.outline import Misfits, Outline, outline_of
from attrlib.models.loading.prefixes import below, prefixes_of, same_values
from attrlib.models.loading.renames import renamed, restore_resized
from attrlib.models.loading.state_dicts import COUNTER
from attrlib.models.options import Options, Value, split_options
from attrlib.specs import Size

# Heads that only training uses, and the counters that profilers leave behind.
_UNUSED = re.compile(r"(^|\.)(AuxLogits|aux\d?|aux_head|aux_logits)\.|(^|\.)(total_ops|total_params)$")


@dataclass(frozen=True)
class Fit:
    """A reading of a checkpoint, the options with which the architecture fits it best, and what still differs."""

    candidate: Candidate
    options: dict[str, Value]
    outline: Outline
    misfits: Misfits


def choose_prefix(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> str:
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


def best_fit(name: str, given: Options, state: dict[str, Tensor], source: str, size: Size | None) -> Fit:
    """Return the reading of the checkpoint that fits the architecture best."""
    best: Fit | None = None
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
    prefix = choose_prefix(state, outline.shapes, source)
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


def _fit(name: str, given: Options, candidate: Candidate, size: Size | None) -> Fit:
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
    return Fit(candidate, options, outline, misfits)


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
