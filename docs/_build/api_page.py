"""The page of the Python interface: everything that `attrlib` exports, grouped; mkdocstrings fills it in."""

import inspect

import attrlib

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Explain and score": (
        "The verbs. Each takes a model, images or data, and methods in text form.",
        ("explain", "score", "compare", "tune", "roar", "aggregate", "doctor"),
    ),
    "Models": ("Load a model by name, from a checkpoint, or wrap a module.", ("load_model", "wrap_model", "list_models", "add_model", "remove_model", "Classifier")),
    "Data": ("Data sets and single pictures.", ("load_dataset", "list_datasets", "open_image")),
    "Methods and protocols": (
        "What is registered. Formulas and parameters: [methods](methods.md) and [protocols](protocols.md).",
        ("list_methods", "list_targets", "list_presets", "list_protocols", "Preset", "load_custom"),
    ),
    "Maps": ("Post-processing of maps.", ("resize", "smooth")),
    "Results": ("What the verbs return.", ("Attribution", "Score", "RunResult", "TuneResult", "RoarResult", "Aggregate", "Diagnosis")),
    "Specs": (
        "What a result depends on, as plain data with a text form.",
        ("MethodSpec", "TargetSpec", "ModelSpec", "ProtocolSpec", "ExplainSpec", "RunSpec", "ViewSpec", "AggregateSpec", "StudySpec", "TuneSpec", "RoarSpec"),
    ),
    "Errors": (
        "All are subclasses of `AttrlibError`. A message says what is wrong and what to do; see [troubleshooting](../troubleshooting.md).",
        (),
    ),
}
OTHER = "Other"
HEAD = """---
description: Everything that attrlib exports, from its docstrings.
---

# Python interface

```python
import attrlib
```

Everything below is imported from `attrlib`. Names that this page does not list are not part of the interface, and may change in any version.

"""


def groups() -> dict[str, list[str]]:
    """Return the exported names by group, each once."""
    names = [name for name in dict.fromkeys(attrlib.__all__) if not name.startswith("_")]
    left = dict.fromkeys(names)
    grouped: dict[str, list[str]] = {}
    for title, (_, members) in GROUPS.items():
        chosen = [n for n in members if n in left] if members else [n for n in names if n in left and is_error(n)]
        grouped[title] = chosen
        for name in chosen:
            del left[name]
    if left:
        grouped[OTHER] = list(left)
    return grouped


def is_error(name: str) -> bool:
    """Return whether an exported name is an exception."""
    value = getattr(attrlib, name)
    return inspect.isclass(value) and issubclass(value, BaseException)


def canonical(name: str) -> str:
    """Return where an exported object is defined, as a dotted path."""
    value = getattr(attrlib, name)
    module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{qualified}" if module and qualified else f"attrlib.{name}"


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for title, names in groups().items():
        about = GROUPS[title][0] if title in GROUPS else ""
        parts.append(f"## {title}\n\n{about}\n")
        parts += [entry(name) for name in names]
    return "\n".join(parts)


def entry(name: str) -> str:
    """Return the directive for one object."""
    return f"::: {canonical(name)}\n    options:\n      heading: attrlib.{name}\n      toc_label: {name}\n"
