"""Listing of the files of a data set in folders, without opening a picture."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attrlib.data.splits import are_splits, choose, listed
from attrlib.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".dcm")
KINDS = ", ".join(SUFFIXES)
_SOME = 3
_ENDINGS = 5
"""Maximum number of endings named in one note."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of a data set, in order.

    Attributes:
        folder: Folder that all paths are relative to.
        files: Paths of the pictures.
        names: Display names of the pictures.
        class_names: Names of the classes.
        labels: The class indices of each picture, empty if it is unlabelled.
        masks: Path of each picture's mask, None if it has none; empty if no picture has one.
        notes: What was assumed, and what was left out.
        split: The subfolder that was chosen among splits, empty if there are none.
        multi_label: Whether a picture may have several labels.
    """

    folder: str
    files: Sequence[str]
    names: Sequence[str]
    class_names: tuple[str, ...]
    labels: Sequence[tuple[int, ...]]
    masks: Sequence[str | None] = ()
    notes: tuple[str, ...] = ()
    split: str = ""
    multi_label: bool = False

    def path(self, file: str) -> str:
        """Return the full path of one of the files."""
        return os.path.join(self.folder, file)


def list_folder(folder: str, training: bool = False) -> Listing:
    """List the pictures in a folder, sorted by their relative paths. Hidden files and folders are left out.

    Direct subfolders that contain pictures at any depth are the classes. Without subfolders of pictures, pictures are unlabelled.
    If the folder has subfolders `images` and `masks`, the same holds for `images`, and `masks/PATH.png` is the mask of
    `images/PATH.*`. If all subfolders have names of splits, and there are class folders in them, one split is listed.

    Args:
        folder: Path of the folder.
        training: Whether to choose the split to train on rather than the one to judge on.

    Raises:
        DataError: If the folder cannot be read, contains no pictures, has pictures both directly in it and in subfolders, or if its
            subfolders may be splits or classes.
    """
    folder = os.path.abspath(folder)
    masked = all(os.path.isdir(os.path.join(folder, name)) for name in ("images", "masks"))
    start, top = ("images/", os.path.join(folder, "images")) if masked else ("", folder)
    others: Counter[str] = Counter()
    folders, loose = _entries(top, SUFFIXES, others)
    others_of: dict[str, Counter[str]] = {name: Counter() for name in folders}
    files_of = {name: list(_walk(top, f"{name}/", SUFFIXES, others_of[name])) for name in folders}
    classes = {name: files for name, files in files_of.items() if files}
    if not loose and not classes:
        found = endings(sum(others_of.values(), others))
        raise DataError(
            f"there are no pictures in {show(top)[-120:]!r}{f', only {found}' if found else ''}; add files ({KINDS}), or one subfolder of "
            "them for each class"
        )
    if loose and classes:
        raise DataError(
            f"{show(top)[-120:]!r} holds pictures both directly and in subfolders, so the classes are ambiguous; move "
            f"pictures such as {show(loose[0])[:80]!r} into a subfolder, or move subfolders such as {show(next(iter(classes)))[:80]!r} away"
        )
    if are_splits(classes):
        return _list_split(top, classes, masked, training)
    notes = [*_left_out_notes(others, others_of, classes), *_inner_note(top, classes)]
    inner = sorted(loose or [file for files in classes.values() for file in files])
    labels_of = {name: (k,) for k, name in enumerate(sorted(classes))}
    masks, mask_notes = _mask_files(folder, inner) if masked else ((), ())
    return Listing(
        folder,
        [start + file for file in inner],
        [show(start + file) for file in inner],
        tuple(show(name) for name in labels_of),
        [labels_of[file.partition("/")[0]] if labels_of else () for file in inner],
        masks,
        (*notes, *mask_notes),
    )


def _inner_note(top: str, classes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a note on a single class whose pictures all lie in subfolders of it, which may be the classes; nothing otherwise."""
    inner = {file.split("/")[1] for files in classes.values() for file in files if file.count("/") > 1}
    if len(classes) != 1 or len(inner) < 2 or any(file.count("/") < 2 for files in classes.values() for file in files):
        return []
    (name,) = classes
    folder, some = show(os.path.join(top, name))[-120:], listed(map(show, sorted(inner)[:_SOME]))
    more = ", ..." if len(inner) > _SOME else ""
    return [f"{show(name)[:80]!r} is the only class; if its folders ({some}{more}) are the classes, give {folder!r}"]


def _list_split(top: str, files_of: Mapping[str, Sequence[str]], masked: bool, training: bool) -> Listing:
    """Return the listing of one of the splits, or refuse folders that may be splits or classes."""
    shown = show(top)[-120:]
    with_classes = [name for name, files in files_of.items() if any(file.count("/") > 1 for file in files)]
    if not with_classes:
        raise DataError(
            f"{shown!r} holds pictures in {listed(files_of)}, without class folders: these may be splits or classes; give the path of one "
            f"of them to use its pictures without labels, or rename the folders if they are classes"
        )
    if masked:
        raise DataError(f"{shown!r} holds the splits {listed(files_of)}; give each split folders of its own, images and masks")
    chosen = choose(with_classes, training)
    listing = list_folder(os.path.join(top, chosen), training)
    notes = [f"{shown!r} holds the splits {listed(files_of)}: {chosen!r} is used; to use another one, give the path of its folder"]
    if flat := set(files_of) - set(with_classes):
        notes.append(f"{listed(flat)} holds no class folders" if len(flat) == 1 else f"{listed(flat)} hold no class folders")
    return replace(listing, notes=(*notes, *listing.notes), split=os.path.join(chosen, listing.split) if listing.split else chosen)


def _left_out_notes(others: Counter[str], others_of: Mapping[str, Counter[str]], classes: Mapping[str, object]) -> list[str]:
    """Return notes on the files that were left out for their ending, and on the class folders that have no other files."""
    vanished = [name for name in others_of if classes and name not in classes]
    count = sum((own for name, own in others_of.items() if name not in vanished), others)
    notes = left_out_note(count)
    for name in vanished[:_SOME]:
        found = endings(others_of[name])
        notes.append(f"class {show(name)[:80]!r} has no readable pictures and is left out: {found or 'it is empty'}")
    if vanished[_SOME:]:
        notes.append(f"{len(vanished) - _SOME} more class folders have no readable pictures and are left out")
    return notes


def left_out_note(count: Counter[str], of: str = "") -> list[str]:
    """Return a note on files that were left out, or nothing if there are none.

    Args:
        count: The number of files by ending.
        of: Where they are, as in " of masks".
    """
    total = count.total()
    return [f"{total} file{'s' if total > 1 else ''}{of} left out: {endings(count)}"] if total else []


def ending(file: str) -> str:
    """Return the ending of a file's name, in lower case."""
    return show(os.path.splitext(file)[1].lower()[:20]) or "without an ending"


def endings(count: Counter[str]) -> str:
    """Return how many files have which ending, the most frequent first: "9 .gif, 3 .txt"."""
    ranked = sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{n} {name}" for name, n in ranked[:_ENDINGS]) + (", ..." if ranked[_ENDINGS:] else "")


def _mask_files(folder: str, pictures: Sequence[str]) -> tuple[Sequence[str | None], Sequence[str]]:
    """Return the path of each picture's mask, and notes on files that were left out."""
    top = os.path.join(folder, "masks")
    others: Counter[str] = Counter()
    by_stem = {os.path.splitext(file)[0]: f"masks/{file}" for file in sorted(_walk(top, "", (".png",), others))}
    masks = [by_stem.get(os.path.splitext(picture)[0]) for picture in pictures]
    if not any(masks):
        raise DataError(
            f"no picture in {show(folder)[-120:]!r} has a mask; the mask of 'images/{show(pictures[0])[:80]}' must be "
            f"'masks/{show(os.path.splitext(pictures[0])[0])[:80]}.png': rename the masks, or move the folder masks away"
        )
    return masks, left_out_note(others, " of masks, which are .png,")


def _walk(top: str, inside: str, suffixes: tuple[str, ...], others: Counter[str]) -> Iterator[str]:
    """Yield the paths, relative to `top`, of the files below `top/inside`; count those with another ending in `others`.

    A folder is visited once even if several links lead to it.
    """
    seen = {_identity(top)} if inside else set()
    waiting = [inside]
    while waiting:
        inside = waiting.pop()
        folder = os.path.join(top, inside)
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        folders, files = _entries(folder, suffixes, others)
        yield from (inside + name for name in files)
        waiting += [f"{inside}{name}/" for name in reversed(folders)]


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return status.st_dev, status.st_ino


def _entries(folder: str, suffixes: tuple[str, ...], others: Counter[str]) -> tuple[list[str], list[str]]:
    """Return the names of the subfolders, links to folders last, and of all other entries with one of the suffixes.

    Entries with another ending are counted in `others`. Hidden entries are left out. A broken link counts as a file, so that a missing
    picture is noticed.
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
                else:
                    others[ending(entry.name)] += 1
    except OSError as error:
        raise _unreadable(folder, error) from None
    return [name for _, name in sorted(folders)], files


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(f"the folder {show(folder)[-120:]!r} cannot be read ({error.strerror}); give it read permission, or move it away")


def show(path: str) -> str:
    """Return a path as one line of text, with line breaks, bytes that are not UTF-8 and other unprintable characters escaped."""
    return path if path.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
