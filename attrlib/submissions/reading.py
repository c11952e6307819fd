"""Reading of submissions that others made: bounded, checked against their digest, and refused with the reason where they do not verify."""

import json
import math
from collections.abc import Sequence
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
_FIELDS = {
    "format": int, "attrlib": str, "numerics": int, "created": str, "name": str, "link": str, "run": dict, "weights": str, "scores": list, "digest": str,
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
        _check(run, scores)
    except AttrlibError as error:
        raise DataError(str(error)) from None
    return Submission(run, content["weights"], scores, content["attrlib"], content["created"], content["name"], content["link"])


def read_all(folder: Path) -> tuple[dict[str, Submission], list[Refused]]:
    """Read all files *.json of a folder, in the order of their names, and return the submissions by file name, and those that are refused.

    A file is also refused if another holds the same scores, or other items than another under the same data, seed and number of items.

    Raises:
        SpecError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise SpecError(f"{str(folder)!r} is not a folder; give a folder of files that attrlib submit wrote")
    found: dict[str, Submission] = {}
    refused: list[Refused] = []
    owners: dict[object, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            submission = read_submission(path)
            _compare(submission, path.name, owners)
        except DataError as error:
            refused.append(Refused(path.name, str(error)))
        else:
            found[path.name] = submission
    return found, refused


def _compare(submission: Submission, name: str, owners: dict[object, str]) -> None:
    """Raise `DataError` if scores are those of an earlier file, or on other items of the same data."""
    run = submission.run
    own: dict[object, str] = {}
    for each in submission.scores:
        items = digest(sorted(each.items))
        scored = ("scores", submission.weights, each.protocol, each.method, items)
        if scored in owners:
            raise DataError(f"it repeats the scores of {owners[scored]}: {each.method} by {each.protocol} on the same items")
        own[scored] = name
        wanted = ("items", run.data, run.seed, run.limit, run.classes, each.protocol, run.filter_models)
        for key, owner in owners.items():
            if isinstance(key, tuple) and key[:-1] == wanted and key[-1] != items:
                raise DataError(f"its items of {run.data} are others than those of {owner}: the data set is another, or was changed")
        own[(*wanted, items)] = name
    for key, owner in own.items():
        owners.setdefault(key, owner)


def _scores(value: Any) -> Scores:
    fields = {"protocol": str, "method": str, "items": list, "values": list}
    if not isinstance(value, dict) or value.keys() != fields.keys() or any(type(value[name]) is not kind for name, kind in fields.items()):
        raise DataError("its scores are not those that attrlib submit writes")
    items, values = value["items"], value["values"]
    if not items or len(items) != len(values) or len(items) > MOST_ITEMS or not all(isinstance(item, str) for item in items):
        raise DataError("its scores and items do not belong together")
    if len(set(items)) < len(items):
        raise DataError("it counts an item twice")
    if not all(each is None or (type(each) in (int, float) and math.isfinite(each)) for each in values):
        raise DataError("it has scores that are no numbers")
    return Scores(value["protocol"], value["method"], tuple(items), tuple(None if each is None else float(each) for each in values))


def _check(run: RunSpec, scores: Sequence[Scores]) -> None:
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
