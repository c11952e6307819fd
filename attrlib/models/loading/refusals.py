"""Say why a checkpoint does not fit an architecture, and refuse one that could be understood in two ways."""

from collections.abc import Mapping

from torch import Tensor

from attrlib.errors import ModelError
from attrlib.models.loading.assembly import head_paths, unrecognised
from attrlib.models.loading.fit import Fit
from attrlib.models.loading.heads import recognise
from attrlib.models.loading.inference import infer
from attrlib.models.loading.outline import accepted, outline_of
from attrlib.models.loading.prefixes import below, prefixes_of
from attrlib.models.loading.state_dicts import misfit_text
from attrlib.models.loading.suggestions import suggest
from attrlib.models.options import Options, split_options, value_text

_WRAP = "build the model in Python, load the file, and use attrlib.wrap_model"


def check_heads_beside(name: str, fit: Fit, state: Mapping[str, Tensor], source: str) -> None:
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
                f"write {source}#{shown} for the network without it, or {_WRAP}"
            )


def refusal(name: str, given: Options, fit: Fit, source: str) -> ModelError:
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
    if not misfits.missing and not misfits.extra and not any(_fits_better(other, state, len(misfits)) for other in similar):
        advice = f"the network was changed after it was built; {_WRAP}"
    return ModelError(f"{source} does not fit this architecture ({text}); {advice}")


def _fits_better(other: str, state: Mapping[str, Tensor], count: int) -> bool:
    """Return whether fewer tensors than `count` do not fit another architecture."""
    return len(outline_of(other, infer(other, {}, state, None)).misfits(state)) < count
