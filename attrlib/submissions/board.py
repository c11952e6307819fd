"""The leaderboard of submissions: means, intervals and ranks, all computed from the scores of the items."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from attrlib.protocols import create
from attrlib.significance import Place, rank_table
from attrlib.specs import MethodSpec, ProtocolSpec, digest
from attrlib.submissions.submission import Scores, Submission


@dataclass(frozen=True)
class Entry:
    """A row: a method on a model under a protocol, on some items of a data set.

    Attributes:
        data: Name of the data set.
        protocol: The protocol in text form.
        model: The model in text form.
        method: The method in text form.
        place: Mean with its interval, and the ranks that the data allow among all rows on the same items.
        better: 1 if higher is better, else -1.
        file: Name of the file.
        submission: The submission.
        command: Command that computes the row.
    """

    data: str
    protocol: str
    model: str
    method: str
    place: Place
    better: int
    file: str
    submission: Submission
    command: str


Board = tuple[Entry, ...]


def make_board(submissions: Mapping[str, Submission]) -> Board:
    """Return the rows of all submissions, by data set and protocol, best first.

    Rows are ranked among those of the same protocol on the same items, of any model, by `rank_table`.

    Args:
        submissions: The submissions by file name.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Submission, Scores]]] = {}
    for file, submission in submissions.items():
        for each in submission.scores:
            key = (submission.run.data, each.protocol, digest(sorted(each.items)))
            groups.setdefault(key, []).append((file, submission, each))
    entries: list[Entry] = []
    for data, protocol, _items in sorted(groups):
        rows = groups[data, protocol, _items]
        higher = create(ProtocolSpec.parse(protocol)).higher_is_better
        names = {str(number): row for number, row in enumerate(rows)}
        order = sorted(rows[0][2].items)
        values = {name: np.array([dict(zip(s.items, s.counted, strict=True))[item] for item in order]) for name, (_, _, s) in names.items()}
        for place in rank_table(values, higher):
            file, submission, scores = names[place.name]
            entries.append(
                Entry(
                    data, protocol, _model(submission), scores.method, place,
                    1 if higher else -1, file, submission, _command(submission, scores),
                )
            )  # fmt: skip
    return tuple(entries)


def _model(submission: Submission) -> str:
    """Return the model in text form; a model in memory is identified by its weights."""
    text = submission.run.model.text
    return f"{text} {submission.weights[:8]}" if text.startswith("wrapped:") else text


def _command(submission: Submission, scores: Scores) -> str:
    """Return the command that computes the scores of one method under one protocol."""
    return replace(submission.run, protocols=(ProtocolSpec.parse(scores.protocol),), methods=(MethodSpec.parse(scores.method),)).cli()
