"""Options of an architecture in its name, as in `timm:vit_tiny_patch16_224?img_size=96&in_chans=1`."""

import re
from collections.abc import Mapping

from attrlib.errors import ModelError, unknown
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.folders.folder import is_folder_name
from attrlib.specs import LARGEST

Value = bool | int | float | str | tuple[int, int] | None
Options = Mapping[str, Value]

MARK, AND, EQUALS = "?", "&", "="
_LARGEST_WHOLE = 1 << 15
"""Larger numbers would build networks that no machine holds."""
_LARGEST_OF = {"img_size": LARGEST, "image_size": LARGEST, "depth": 256, "layers": 256, "heads": 1024, "num_classes": MOST_CLASSES}
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_WORD = re.compile(r"[A-Za-z_][\w.+-]{0,63}", re.ASCII)
_PAIR = re.compile(r"(\d{1,6})[x×](\d{1,6})", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,12}(\.\d{0,12})?|\.\d{1,12})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_WORDS: dict[str, Value] = {"true": True, "false": False, "none": None}


def split_options(name: str) -> tuple[str, dict[str, Value]]:
    """Split the name of a model into the architecture and its options.

    The name of a repository or folder has none: its configuration holds them. Values are numbers, `true`, `false`, `none`, pairs such as `96x128`, or words. No value runs code.

    Raises:
        ModelError: An option is malformed, given twice, or out of range.
    """
    if is_folder_name(name):
        return name, {}
    base, mark, text = name.partition(MARK)
    options: dict[str, Value] = {}
    for part in text.split(AND) if mark else ():
        key, equals, value = part.partition(EQUALS)
        if not equals or not _NAME.fullmatch(key):
            raise ModelError(f"option {part[:60]!r} of {base} is not valid: write OPTION=VALUE, as in {base}?num_classes=10&in_chans=1")
        if key in options:
            raise ModelError(f"option {key} of {base} is given twice; keep one")
        options[key] = _parsed(key, value, base)
    return base, options


def join_options(base: str, options: Options) -> str:
    """Return the name of an architecture with options in alphabetical order, the inverse of `split_options`."""
    text = AND.join(f"{key}{EQUALS}{value_text(value)}" for key, value in sorted(options.items()))
    return f"{base}{MARK}{text}" if text else base


def class_count(options: Options) -> int | None:
    """Return the number of classes, or None for that of the architecture. Raises `ModelError` if it is not a number."""
    classes = options.get("num_classes")
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise ModelError(f"num_classes={value_text(classes)} is not valid: give the number of classes")
    return classes


def structure(name: str, options: Options) -> str:
    """Return a name with more options, without the number of classes: what stays when a network gets another head."""
    base, named = split_options(name)
    return join_options(base, {key: value for key, value in {**named, **options}.items() if key != "num_classes"})


def value_text(value: Value) -> str:
    """Return the value of an option as it is written in a name."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return next((word for word, meaning in _WORDS.items() if value is meaning), str(value))


def check_options(base: str, options: Options, accepted: Options) -> None:
    """Check options against those that the constructor accepts.

    Args:
        base: Name of the architecture, for messages.
        options: The options that were given.
        accepted: Default values of the options that the constructor accepts.

    Raises:
        ModelError: The constructor has no such option, or its values are of another type.
    """
    for key, value in options.items():
        if key not in accepted:
            if key in ("img_size", "image_size"):
                other = "image_size" if key == "img_size" else "img_size"
                advice = f"write {other}" if other in accepted else "give input_size instead: the network takes images of any size"
                raise ModelError(f"{base} has no option {key}; {advice}")
            raise ModelError(unknown(f"option of {base}", key, accepted))
        default = accepted[key]
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ModelError(f"{key}={value_text(value)} of {base} is not valid: write true or false")
        if isinstance(default, int | float) and not isinstance(default, bool) and isinstance(value, str | bool):
            raise ModelError(f"{key}={value_text(value)} of {base} is not valid: write a number")


def _parsed(key: str, text: str, base: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if pair := _PAIR.fullmatch(text):
        value: Value = int(pair[1]), int(pair[2])
    elif _WHOLE.fullmatch(text):
        value = int(text)
    elif _NUMBER.fullmatch(text):
        return float(text)
    elif _WORD.fullmatch(text):
        return text
    else:
        raise ModelError(f"{key}={text[:40]} of {base} is not valid: write a number, HxW, true, false, none or a word")
    limit = next((most for end, most in _LARGEST_OF.items() if key.endswith(end)), _LARGEST_WHOLE)
    assert isinstance(value, int | tuple)
    if max(value if isinstance(value, tuple) else (abs(value),)) > limit:
        raise ModelError(f"{key}={text} of {base} is too large: give at most {limit}")
    return value
