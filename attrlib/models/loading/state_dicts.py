"""Load a state dict strictly, with a message that names what does not fit."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.loading.prefixes import listed

COUNTER = "num_batches_tracked"


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict strictly.

    Args:
        module: The module to load into.
        state: The state dict.
        source: Name of the file, for messages.

    Raises:
        ModelError: Keys or shapes do not fit; the message names them.
    """
    expected, result = module.state_dict(), OrderedDict(state)
    # No computation here reads these counters, and files from before torch 0.4.1 have none.
    result.update({k: v for k, v in expected.items() if k.endswith(COUNTER) and k not in state})
    # By the versions of modules that torch keeps beside a state dict, modules read older ones.
    result._metadata = getattr(state, "_metadata", getattr(expected, "_metadata", None))  # type: ignore[attr-defined]
    misfits = misfit_text(
        [k for k in expected if k not in result],
        [k for k in result if k not in expected],
        [f"{k} {tuple(result[k].shape)} for {tuple(v.shape)}" for k, v in expected.items() if k in result and result[k].shape != v.shape],
    )
    if misfits:
        raise ModelError(f"{source} does not fit this architecture ({misfits}); choose the architecture that it was saved from")
    module.load_state_dict(result)


def misfit_text(missing: list[str], extra: list[str], reshaped: list[str]) -> str:
    """Return what does not fit as text, empty if everything does."""
    kinds = {"missing": missing, "not in the model": extra, "of another shape": reshaped}
    return "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds.items() if keys)
