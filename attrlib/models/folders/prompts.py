"""Prompts that make the classes of a CLIP model, in its name: `clip:ORG/NAME?classes=cat|dog&template=a photo of a {}`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from timm.data import ImageNetInfo

from attrlib.errors import ModelError, existing_file, reason_of, unknown
from attrlib.models.files.limits import MOST_CLASSES

CLIP = "clip:"
_MARK, _AND, _EQUALS, _OR = "?", "&", "=", "|"
_KEYS = ("revision", "classes", "prompts", "template")
IMAGENET = "imagenet"
"""What stands for the classes of ImageNet-1k in place of their list."""
PHOTO = "a photo of a {}"
"""The template of classes that are given without one."""
_AS_IT_IS = "{}"
_READABLE = " {}/:;!'\"()[]*~^$|"
"""Characters that stay as they are in names; others, such as commas and `@`, separate parts of other texts."""
_MOST_BYTES = 1 << 20
_AMBIGUOUS = {134: "crane bird", 517: "construction crane", 639: "tank suit"}
"""What classes of ImageNet are called whose first name is that of another class."""


@dataclass(frozen=True)
class Prompts:
    """Classes, and the sentences that describe each.

    Attributes:
        names: Names of the classes.
        texts: The sentences of each class; their embeddings are averaged.
        templates: What makes a sentence of a class, with `{}` in place of it.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]

    @property
    def note(self) -> str:
        """Return what the classes are made of, for the notes of a model."""
        templates = ", ".join(repr(template) for template in self.templates[:3]) + (", ..." if self.templates[3:] else "")
        return f"its {len(self.names)} classes are prompts in the template{'s' if self.templates[1:] else ''} {templates}"


def split_prompts(name: str) -> tuple[str, dict[str, str]]:
    """Split the name of a CLIP model into `clip:WHERE` and its options, with their values as they were meant.

    Raises:
        ModelError: An option is unknown, given twice or empty.
    """
    base, mark, text = name.partition(_MARK)
    options: dict[str, str] = {}
    for part in text.split(_AND) if mark else ():
        key, equals, value = part.partition(_EQUALS)
        if key not in _KEYS:
            raise ModelError(unknown(f"option of {base}", key[:60], _KEYS))
        if not equals or not value.strip():
            raise ModelError(f"option {key} of {base} is empty; write {base}?classes=cat|dog")
        if key in options:
            raise ModelError(f"option {key} of {base} is given twice; keep one")
        options[key] = value if key in ("classes", "template") else unquote(value)
    return base, options


def join_prompts(base: str, options: Mapping[str, str]) -> str:
    """Return the name of a CLIP model with its options in their order, the inverse of `split_prompts`."""
    values = {key: options[key] for key in _KEYS if key in options}
    text = _AND.join(
        f"{key}{_EQUALS}{quote(unquote(value), safe=_READABLE) if key not in ('classes', 'template') else _listed(value)}"
        for key, value in values.items()
    )
    return f"{base}{_MARK}{text}" if text else base


def named_by_prompts(name: str, prompts: Sequence[str], template: str | Sequence[str] | None) -> str:
    """Return the name of a CLIP model with prompts that are given in Python.

    Args:
        name: Name of the model, `clip:WHERE`.
        prompts: One text for each class.
        template: What makes a sentence of each text, with `{}` in place of it, or several; by default the text itself.

    Raises:
        ModelError: The model has no text side, or its name has prompts already.
    """
    if not name.startswith(CLIP):
        raise ModelError(f"{name} has no text side, so prompts make no classes of it; load a CLIP or SigLIP model as clip:NAME")
    base, options = split_prompts(name)
    if {"classes", "prompts"} & options.keys():
        raise ModelError(f"{name} has prompts in its name already; give them once")
    if isinstance(prompts, str):
        raise ModelError(f"prompts={prompts[:40]!r} is one text; give a list with one for each class")
    templates = (template,) if isinstance(template, str) else tuple(template or (options.get("template", _AS_IT_IS),))
    joined = {
        key: _OR.join(quote(text, safe=_READABLE.replace(_OR, "")) for text in texts)
        for key, texts in (("classes", prompts), ("template", templates))
    }
    return join_prompts(base, options | joined)


def prompts_of(name: str) -> Prompts | None:
    """Return the prompts in the name of a CLIP model, None if it has none.

    `classes` are names separated by `|`, or `imagenet`; `prompts` is a text file with one class a line. `template` holds templates
    separated by `|`, by default `a photo of a {}` for `classes`, and the line itself for `prompts`.

    Raises:
        ModelError: There is one class only, one is given twice, a template has no `{}`, or the file cannot be read.
    """
    base, options = split_prompts(name)
    listed, file = options.get("classes"), options.get("prompts")
    if listed is None and file is None:
        if "template" in options:
            raise ModelError(f"{name} has a template but no classes; write {base}?classes=cat|dog&template=...")
        return None
    if listed is not None and file is not None:
        raise ModelError(f"{name} has classes and prompts; give classes=A|B, or prompts=FILE")
    templates = tuple(_values(options["template"])) if "template" in options else ((PHOTO,) if file is None else (_AS_IT_IS,))
    for template in templates:
        if _AS_IT_IS not in template:
            raise ModelError(
                f"template {template[:60]!r} of {base} has no {{}}, so all classes are the same; write {{}} where the class belongs"
            )
    if listed == IMAGENET:
        names, subjects = _imagenet()
    else:
        names = subjects = _read(file, base) if file is not None else _values(listed or "")
        _check(names, base)
    return Prompts(tuple(names), tuple(tuple(each.replace(_AS_IT_IS, subject) for each in templates) for subject in subjects), templates)


def prompts_file(name: str) -> str | None:
    """Return the path of the text file with prompts in the name of a model, None if it has none."""
    return split_prompts(name)[1].get("prompts") if name.startswith(CLIP) else None


def _check(names: Sequence[str], base: str) -> None:
    if len(names) < 2:
        raise ModelError(
            f"{base} has {len(names)} class: its logit has nothing to compare with; give two classes or more, as in classes=cat|dog"
        )
    if len(names) > MOST_CLASSES:
        raise ModelError(f"{base} has {len(names)} classes, but at most {MOST_CLASSES} can be loaded; give fewer")
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ModelError(f"class {twice[:60]!r} of {base} is given {times} times; keep one")


def _values(text: str) -> list[str]:
    return [value for part in text.split(_OR) if (value := unquote(part).strip())]


def _listed(text: str) -> str:
    return _OR.join(quote(value, safe=_READABLE.replace(_OR, "")) for value in _values(text))


def _read(path: str, base: str) -> list[str]:
    file = existing_file(path)
    if file is None:
        raise ModelError(f"there is no file {path[:200]!r} with prompts for {base}; give the path of a text file with one class a line")
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than 1 MB")
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the prompts in {Path(path).name} cannot be read ({reason_of(error)}); give a UTF-8 text file with one class a line"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _imagenet() -> tuple[list[str], list[str]]:
    """Return the names of the classes of ImageNet-1k, and what each is called in a sentence."""
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(i) for i in range(1000)]
    return names, [_AMBIGUOUS.get(i, name.partition(",")[0]) for i, name in enumerate(names)]
