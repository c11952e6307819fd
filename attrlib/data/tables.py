"""Listing of the files of a data set from a CSV file, without opening a picture."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attrlib.data.folders import KINDS, SUFFIXES, Listing, endings, show
from attrlib.errors import DataError

MAX_CSV_BYTES = 256 << 20
_SEPARATORS = re.compile(r"[;|]")
_ABSENT, _PRESENT = ("0", "0.0"), ("1", "1.0")
_SOME = 3


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows of a CSV file.

    Attributes:
        rows: For each file, its cell in the column `label`; without that column, the other columns that hold 1.
        columns: Names of the other columns and whether they hold nothing but 0 and 1; None if there is a column `label`.
    """

    rows: dict[str, tuple[str, ...]]
    columns: list[tuple[str, bool]] | None


def list_csv(file: str) -> Listing:
    """List the pictures named in the column `file` of a CSV file, in the order of its rows.

    Paths are relative to the folder of the CSV file. The column `label` names the classes; several labels of a picture are separated by
    `;` or `|`. It may be missing, and its cells may be empty. Without it, the other columns are the classes if they hold nothing but 0
    and 1; else they are ignored.

    Raises:
        DataError: If the CSV file is invalid, names a file twice, or names one that cannot be read.
    """
    file = os.path.abspath(file)
    name, folder = show(os.path.basename(file))[:80], os.path.dirname(file)
    try:
        if (size := os.path.getsize(file)) > MAX_CSV_BYTES:
            raise DataError(f"{name} has {size >> 20} MiB, more than {MAX_CSV_BYTES >> 20}; split it")
        with open(file, encoding="utf-8-sig", newline="") as lines:
            table = _read(lines, name, folder)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{name} is not a CSV file ({str(error)[-80:]}); save it as text in UTF-8, with commas between the columns"
        ) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); give it read permission") from None
    _check_files(list(table.rows), name, folder)
    class_names, labels, notes = _split_labels(table) if table.columns is None else _one_hot(table, name, table.columns)
    several = max(map(len, labels)) > 1
    return Listing(
        folder,
        list(table.rows),
        [show(picture) for picture in table.rows],
        tuple(show(label) for label in class_names),
        labels,
        notes=notes,
        multi_label=several,
    )


def _check_files(pictures: Sequence[str], name: str, folder: str) -> None:
    if missing := [picture for picture in pictures if not _readable(os.path.join(folder, picture))]:
        some = ", ".join(repr(picture[:80]) for picture in missing[:_SOME])
        raise DataError(
            f"{len(missing)} of the {len(pictures)} files that {name} names cannot be read: {some}{', ...' if missing[_SOME:] else ''}; "
            f"write their paths relative to the folder of {name}, or remove them"
        )
    # A file without an ending may be a picture.
    others = Counter(end for picture in pictures if (end := os.path.splitext(picture)[1].lower()) and not end.endswith(SUFFIXES))
    if others:
        raise DataError(
            f"{others.total()} of the {len(pictures)} files that {name} names are not pictures that can be read: {endings(others)}; save "
            f"them as one of {KINDS}, or remove their lines"
        )


def _split_labels(table: _Table) -> tuple[list[str], list[tuple[int, ...]], tuple[str, ...]]:
    """Return class names, labels and notes of the column `label`."""
    texts = [{part.strip() for part in _SEPARATORS.split(cells[0])} - {""} for cells in table.rows.values()]
    classes = sorted(set().union(*texts))
    index = {label: k for k, label in enumerate(classes)}
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    labels = [known.setdefault(own, own) for own in (tuple(sorted(index[label] for label in labels)) for labels in texts)]
    return classes, labels, ()


def _one_hot(table: _Table, name: str, columns: list[tuple[str, bool]]) -> tuple[list[str], list[tuple[int, ...]], tuple[str, ...]]:
    """Return class names, labels and notes of columns that hold 0 and 1; nothing if another column holds anything else."""
    classes = [column for column, binary in columns if binary]
    if len(classes) < len(columns) or not columns:
        other = next((column for column, binary in columns if not binary), "")
        note = (
            f"{name} has no column 'label', and {other[:80]!r} holds more than 0 and 1, so {classes[0][:80]!r} is not taken for a class; "
            "leave other columns out, so that those of 0 and 1 are the classes"
            if classes
            else ""
        )
        return [], [()] * len(table.rows), (note,) if note else ()
    index = {column: k for k, column in enumerate(classes)}
    if len(index) < len(classes):
        repeated = next(column for column, n in Counter(classes).items() if n > 1)
        raise DataError(f"{name} has two columns {repeated[:80]!r}; rename or remove one of them")
    labels = [tuple(index[column] for column in present) for present in table.rows.values()]
    return classes, labels, (f"{name} has no column 'label': its {len(classes)} other columns, of 0 and 1, are the classes",)


def _read(lines: Iterator[str], name: str, folder: str) -> _Table:
    reader = csv.reader(lines, strict=True)
    shown = [cell.strip() for cell in next(reader, [])]
    header = [cell.lower() for cell in shown]
    if "file" not in header:
        raise DataError(f"{name} has no column 'file'; its first line must name the columns, for example file,label")
    place = header.index("file")
    used = [header.index("label")] if "label" in header else [k for k, cell in enumerate(header) if cell and k != place]
    columns = [shown[k] for k in used]
    binary = [True] * len(columns)
    rows: dict[str, tuple[str, ...]] = {}
    lines_of: dict[str, int] = {}
    for row in reader:
        if not any(row):
            continue
        picture, *cells = (row[k].strip() if k < len(row) else "" for k in (place, *used))
        if not picture:
            raise DataError(f"line {reader.line_num} of {name} names no file; fill it in, or remove the line")
        first = lines_of.setdefault(os.path.normpath(os.path.join(folder, picture)), reader.line_num)
        if first != reader.line_num:
            raise DataError(f"lines {first} and {reader.line_num} of {name} name the same file {picture[:80]!r}; remove one of them")
        if "label" in header:
            rows[picture] = tuple(cells)
        else:
            binary = [own and cell in (*_ABSENT, *_PRESENT) for own, cell in zip(binary, cells, strict=True)]
            rows[picture] = tuple(column for column, cell in zip(columns, cells, strict=True) if cell in _PRESENT)
    if not rows:
        raise DataError(f"{name} names no files; write one line for each picture below the first, for example cat.jpg,tabby")
    return _Table(rows, None if "label" in header else list(zip(columns, binary, strict=True)))


def _readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)
