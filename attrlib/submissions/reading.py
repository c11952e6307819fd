"""Reading of submissions that others made: bounded, checked against their digest, and refused with the reason where they do not verify."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrlib.errors import AttrlibError, DataError, SpecError
from attrlib.protocols import create
from attrlib.specs import NUMERICS, RunSpec, digest
from attrlib.submissions.submission import FORMAT, Scores, Submission, check_words, parsed

LARGEST = 64 << 20
"""Largest file in bytes."""
MOST_SCORES, MOST_ITEMS = 2_000, 1_000_000
LONGEST_TEXT, LARGEST_SCORE = 2_000, 1e300
_FIELDS = {
    "format": int, "attrlib": str, "numerics": int, "created": str, "name": str, "link": str, "run": dict, "weights": str, "refused": dict, "scores": list, "digest": str,
}  # fmt: skip
_ROUNDING = 1e-9
"""By how much a score may lie outside the bounds of its protocol."""


@dataclass(frozen=True)
class Refused:
    """A file that does not verify, and the reason."""

    file: str
    reason: str


def read_submission(path: Path) -> Submission:
    """Read a submission and check it.

    Raises:
        DataError: If it cannot be read, is too large, has been edited, or has scores that cannot be.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"it is larger than {LARGEST >> 20} MB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DataError("it is not JSON") from None
    if not isinstance(content, dict) or content.keys() != _FIELDS.keys():
        raise DataError("it is not a submission: other fields than those that attrlib submit writes")
    if any(type(content[name]) is not kind for name, kind in _FIELDS.items()) or content["format"] != FORMAT:
        raise DataError(f"it is not a submission of format {FORMAT}")
    if not all(map(_is_plain, _texts(content))):
        raise DataError("it has control characters, or text that is too long")
    stated = content.pop("digest")
    try:
        own = digest(content)
    except (ValueError, TypeError, RecursionError):
        raise DataError("it has numbers that are not finite") from None
    if own != stated:
        raise DataError("it was edited: its content has another digest than it states")
    if content["numerics"] != NUMERICS:
        raise DataError(
            f"its scores are of another version of the arithmetic ({content['numerics']}, this is {NUMERICS}); run it again with this version"
        )
    try:
        check_words(content["name"], content["link"])
        run = RunSpec.from_json(content["run"])
        scores = tuple(map(_scores, content["scores"]))
        _check(run, scores, content["refused"])
    except AttrlibError as error:
        raise DataError(str(error)) from None
    words = (content["attrlib"], content["created"], content["name"], content["link"])
    return Submission(run, content["weights"], scores, *words, content["refused"])


def read_all(folder: Path) -> tuple[dict[str, Submission], list[Refused]]:
    """Read all files *.json of a folder, in the order of their names, and return the submissions by file name, and those that are refused.

    A file is also refused if it repeats the scores of an earlier one; if two say otherwise of the same items, both are.

    Raises:
        SpecError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise SpecError(f"{str(folder)!r} is not a folder; give a folder of files that attrlib submit wrote")
    found: dict[str, Submission] = {}
    refused: list[Refused] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.name] = read_submission(path)
        except DataError as error:
            refused.append(Refused(path.name, str(error)))
    conflicts = _conflicts(found)
    refused += [Refused(name, reason) for name, reason in conflicts.items()]
    return {name: each for name, each in found.items() if name not in conflicts}, sorted(refused, key=lambda each: each.file)


def _conflicts(found: Mapping[str, Submission]) -> dict[str, str]:
    """Return why files cannot stand beside others: they have scores of the same weights, method, protocol and items."""
    reasons: dict[str, str] = {}
    owners: dict[tuple[str, ...], tuple[str, Scores]] = {}
    for name, submission in found.items():
        for each in submission.scores:
            values = dict(zip(each.items, each.values, strict=True))
            key = (submission.weights, each.protocol, each.method, digest(sorted(each.items)))
            owner, own = owners.setdefault(key, (name, each))
            if owner == name:
                continue
            what = f"{each.method} by {each.protocol} on the same items"
            if values == dict(zip(own.items, own.values, strict=True)):
                reasons.setdefault(name, f"it repeats the scores of {owner}: {what}")
            else:
                reasons[name] = f"it contradicts {owner}: {what}"
                reasons[owner] = f"it contradicts {name}: {what}"
    return reasons


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in JSON values, names of fields included."""
    stack = [value]
    while stack:
        own = stack.pop()
        if isinstance(own, str):
            yield own
        elif isinstance(own, dict):
            stack += [*own.keys(), *own.values()]
        elif isinstance(own, list):
            stack += own


def _is_plain(text: str) -> bool:
    """Return whether a text has no control or direction characters and no halves of characters, which could hide what a command does."""
    return len(text) <= LONGEST_TEXT and not any(unicodedata.category(character).startswith("C") for character in text)


def _scores(value: Any) -> Scores:
    fields = {"protocol": str, "method": str, "items": list, "values": list}
    if not isinstance(value, dict) or value.keys() != fields.keys() or any(type(value[name]) is not kind for name, kind in fields.items()):
        raise DataError("its scores are not those that attrlib submit writes")
    items, values = value["items"], value["values"]
    if not items or len(items) != len(values) or len(items) > MOST_ITEMS or not all(isinstance(item, str) for item in items):
        raise DataError("its scores and items do not belong together")
    if len(set(items)) < len(items):
        raise DataError("it counts an item twice")
    if not all(each is None or (type(each) in (int, float) and abs(each) < LARGEST_SCORE) for each in values):
        raise DataError("it has scores that are no numbers")
    return Scores(value["protocol"], value["method"], tuple(items), tuple(None if each is None else float(each) for each in values))


def _check(run: RunSpec, scores: Sequence[Scores], refused: Mapping[str, object]) -> None:
    """Raise `AttrlibError` unless the scores are those of the run: its protocols and methods, all on the same items, within bounds."""
    if not scores or len(scores) > MOST_SCORES:
        raise DataError("it has no scores, or too many")
    items: dict[str, frozenset[str]] = {}
    asked = {str(each) for each in run.protocols}, {str(each) for each in run.methods}
    for each in scores:
        protocol, method = parsed(each.protocol, each.method)
        if str(protocol) not in asked[0] or str(method) not in asked[1]:
            raise DataError(f"its run does not score {each.method} by {each.protocol}")
        low, high = create(protocol).bounds
        if any(value is not None and not low - _ROUNDING <= value <= high + _ROUNDING for value in each.values):
            raise DataError(f"it has scores of {each.method} by {each.protocol} outside of {low:g} to {high:g}")
        if run.limit is not None and len(each.items) > run.limit:
            raise DataError(f"it has more than the {run.limit} items of its run")
        if items.setdefault(each.protocol, frozenset(each.items)) != frozenset(each.items):
            raise DataError(f"items of {each.method} by {each.protocol} are missing: another method was scored on others")
    there = {(each.protocol, each.method) for each in scores}
    if len(there) < len(scores):
        raise DataError("it has two scores of one method by one protocol")
    left_out = [
        f"{p}|{m}" for p in map(str, run.protocols) for m in map(str, run.methods) if (p, m) not in there and f"{p}|{m}" not in refused
    ]
    if left_out:
        raise DataError(f"scores are missing: {left_out[0].replace('|', ' of ')}")
