"""The module that a classifier is made of: the network inside wrappers that only distribute, average or compile it, in float32."""

import copy
from typing import Any

import torch
from torch import nn

from attrlib.errors import ModelError

WIDE = (torch.float16, torch.bfloat16, torch.float64)
"""Types of weights that are converted to float32. Quantised and 8-bit weights are not: their values need a scale."""


def unwrapped(module: Any) -> nn.Module:
    """Return the network inside `DataParallel`, `DistributedDataParallel`, `AveragedModel` and `torch.compile`; it is not copied.

    Raises:
        ModelError: The object is not a module, or its weights are spread over processes.
    """
    if not isinstance(module, nn.Module):
        name, advice = type(module).__name__, "give the torch.nn.Module itself"
        if hasattr(module, "module") and name == "ExportedProgram":
            advice = "give its module, program.module()"
        elif "onnx" in type(module).__module__ or hasattr(module, "ir_version"):
            advice = "an ONNX model has no modules and no gradients, so give the PyTorch module that it was exported from"
        raise ModelError(f"a classifier needs a torch.nn.Module, not a {name}; {advice}")
    if any(
        "FSDP" in base.__name__ or base.__name__ == "FullyShardedDataParallel" for part in module.modules() for base in type(part).__mro__
    ):
        raise ModelError(
            "the weights of this module are sharded over processes (FSDP), and one process holds only a part of them; "
            "gather the full state dict, and load it into the module without FSDP"
        )
    inner = getattr(module, "_orig_mod", None) if type(module).__name__ == "OptimizedModule" else None
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | torch.optim.swa_utils.AveragedModel):
        inner = module.module
    return module if inner is None else unwrapped(inner)


def in_float32(module: nn.Module) -> tuple[nn.Module, str]:
    """Return a module whose weights are float32, and a note if it is a copy.

    Logits rounded to float16 or bfloat16 tie, and their gradients vanish. Every weight of these types is also a float32, so that the copy
    computes the same function with less rounding. float64 is converted too: everything downstream of the model is float32.

    Raises:
        ModelError: The module cannot be copied.
    """
    types = sorted({str(t.dtype).removeprefix("torch.") for t in (*module.parameters(), *module.buffers()) if t.dtype in WIDE})
    # A buffer alone, such as a constant in float64, does not determine the type that the module computes in.
    if not any(p.dtype in WIDE for p in module.parameters()):
        return module, ""
    training = module.training
    try:
        twin = copy.deepcopy(module).float()
    except Exception as error:  # noqa: BLE001  a user's module may forbid copies in any way
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(
            f"the weights are {' and '.join(types)}, and the module cannot be copied to float32 ({reason}); convert it with module.float()"
        ) from None
    twin.train(training)
    return twin, f"the weights are {' and '.join(types)}: a copy in float32 is explained, and later changes of the module do not reach it"
