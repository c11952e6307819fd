"""Listing of the files of a data set, from folders and CSV files, without opening a picture."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attrlib.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".dcm")
MAX_CSV_BYTES = 256 << 20
_KINDS = ", ".join(SUFFIXES)
_SOME = 3


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of a data set, in order.

    Attributes:
        folder: Folder that all paths are relative to.
        files: Paths of the pictures.
        names: Display names of the pictures.
        class_names: Names of the classes.
        labels: Class index of each picture, None if unlabelled.
        masks: Path of each picture's mask, None if it has none; empty if no picture has one.
    """

    folder: str
    files: Sequence[str]
    names: Sequence[str]
    class_names: tuple[str, ...]
    labels: Sequence[int | None]
    masks: Sequence[str | None] = ()

    def path(self, file: str) -> str:
        """Return the full path of one of the files."""
        return os.path.join(self.folder, file)


def list_folder(folder: str) -> Listing:
    """List the pictures in a folder, sorted by their relative paths. Hidden files and folders are left out.

    Direct subfolders that contain pictures at any depth are the classes. Without subfolders of pictures, pictures are unlabelled.
    If the folder has subfolders `images` and `masks`, the same holds for `images`, and `masks/PATH.png` is the mask of
    `images/PATH.*`.

    Raises:
        DataError: If the folder cannot be read, contains no pictures, or has pictures both directly in it and in subfolders.
    """
    folder = os.path.abspath(folder)
    masked = all(os.path.isdir(os.path.join(folder, name)) for name in ("images", "masks"))
    start, top = ("images/", os.path.join(folder, "images")) if masked else ("", folder)
    folders, loose = _entries(top, SUFFIXES)
    classes = {name: files for name in folders if (files := list(_walk(top, f"{name}/", SUFFIXES)))}
    if not loose and not classes:
        raise DataError(f"there are no pictures in {show(top)[-120:]!r}; add files ({_KINDS}), or one subfolder of them for each class")
    if loose and classes:
        raise DataError(
            f"{show(top)[-120:]!r} holds pictures both directly and in subfolders, so the classes are ambiguous; move "
            f"pictures such as {show(loose[0])[:80]!r} into a subfolder, or move subfolders such as {show(next(iter(classes)))[:80]!r} away"
        )
    inner = sorted(loose or [file for files in classes.values() for file in files])
    index = {name: k for k, name in enumerate(sorted(classes))}
    return Listing(
        folder,
        [start + file for file in inner],
        [show(start + file) for file in inner],
        tuple(show(name) for name in index),
        [index[file.partition("/")[0]] if index else None for file in inner],
        _mask_files(folder, inner) if masked else (),
    )


def _mask_files(folder: str, pictures: Sequence[str]) -> list[str | None]:
    top = os.path.join(folder, "masks")
    by_stem = {os.path.splitext(file)[0]: f"masks/{file}" for file in sorted(_walk(top, "", (".png",)))}
    masks = [by_stem.get(os.path.splitext(picture)[0]) for picture in pictures]
    if not any(masks):
        raise DataError(
            f"no picture in {show(folder)[-120:]!r} has a mask; the mask of 'images/{show(pictures[0])[:80]}' must be "
            f"'masks/{show(os.path.splitext(pictures[0])[0])[:80]}.png': rename the masks, or move the folder masks away"
        )
    return masks


def _walk(top: str, inside: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths, relative to `top`, of the files below `top/inside`. A folder is visited once even if several links lead to it."""
    seen = {_identity(top)} if inside else set()
    waiting = [inside]
    while waiting:
        inside = waiting.pop()
        folder = os.path.join(top, inside)
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        folders, files = _entries(folder, suffixes)
        yield from (inside + name for name in files)
        waiting += [f"{inside}{name}/" for name in reversed(folders)]


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return status.st_dev, status.st_ino


def _entries(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the names of the subfolders, links to folders last, and of all other entries with one of the suffixes.

    Hidden entries are left out. A broken link counts as a file, so that a missing picture is noticed.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((False, entry.name))
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    folders.append((True, entry.name))
                elif entry.name.lower().endswith(suffixes):
                    files.append(entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return [name for _, name in sorted(folders)], files


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(f"the folder {show(folder)[-120:]!r} cannot be read ({error.strerror}); give it read permission, or move it away")


def list_csv(file: str) -> Listing:
    """List the pictures named in the column `file` of a CSV file, in the order of its rows.

    Paths are relative to the folder of the CSV file. The column `label` names the classes; it may be missing, and its cells may be
    empty. Other columns are ignored.

    Raises:
        DataError: If the CSV file is invalid, names a file twice, or names one that cannot be read.
    """
    file = os.path.abspath(file)
    name, folder = show(os.path.basename(file))[:80], os.path.dirname(file)
    try:
        if (size := os.path.getsize(file)) > MAX_CSV_BYTES:
            raise DataError(f"{name} has {size >> 20} MiB, more than {MAX_CSV_BYTES >> 20}; split it")
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = _rows(lines, name, folder)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{name} is not a CSV file ({str(error)[-80:]}); save it as text in UTF-8, with commas between the columns"
        ) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); give it read permission") from None
    if missing := [picture for picture in rows if not _readable(os.path.join(folder, picture))]:
        some = ", ".join(repr(picture[:80]) for picture in missing[:_SOME])
        raise DataError(
            f"{len(missing)} of the {len(rows)} files that {name} names cannot be read: {some}{', ...' if missing[_SOME:] else ''}; "
            f"write their paths relative to the folder of {name}, or remove them"
        )
    classes = sorted(set(rows.values()) - {""})
    index = {label: k for k, label in enumerate(classes)}
    labels = [index.get(label) for label in rows.values()]
    return Listing(folder, list(rows), [show(picture) for picture in rows], tuple(show(label) for label in classes), labels)


def _rows(lines: Iterator[str], name: str, folder: str) -> dict[str, str]:
    """Return the label of each file, "" for none."""
    reader = csv.reader(lines, strict=True)
    header = [cell.strip().lower() for cell in next(reader, [])]
    if "file" not in header:
        raise DataError(f"{name} has no column 'file'; its first line must name the columns, for example file,label")
    columns = (header.index("file"), header.index("label") if "label" in header else len(header))
    rows: dict[str, str] = {}
    lines_of: dict[str, int] = {}
    for row in reader:
        if not any(row):
            continue
        picture, label = (row[k].strip() if k < len(row) else "" for k in columns)
        if not picture:
            raise DataError(f"line {reader.line_num} of {name} names no file; fill it in, or remove the line")
        first = lines_of.setdefault(os.path.normpath(os.path.join(folder, picture)), reader.line_num)
        if first != reader.line_num:
            raise DataError(f"lines {first} and {reader.line_num} of {name} name the same file {picture[:80]!r}; remove one of them")
        rows[picture] = label
    if not rows:
        raise DataError(f"{name} names no files; write one line for each picture below the first, for example cat.jpg,tabby")
    return rows


def _readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def show(path: str) -> str:
    """Return a path as one line of text, with line breaks, bytes that are not UTF-8 and other unprintable characters escaped."""
    return path if path.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
