"""Part files: records of a run in Parquet, named by the digest of their content, so that a damaged file is detected."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrlib.errors import StoreError, reason_of
from attrlib.specs import NUMERICS, digest
from attrlib.store.failures import reason

COLUMNS = ("key", "item", "value", "details")
FORMAT = 1
"""Version of the files. Increased when they change, so that files of another version are not misread."""
Row = Mapping[str, Any]
"""A record as in the table `records`: key, item, value and details."""


class BadPart(StoreError):
    """A file that is damaged, or is no part file. Its records must be computed again."""


@dataclass(frozen=True)
class Part:
    """The content of a part file.

    Attributes:
        run: Key of the run.
        numerics: Version of the numerics that computed the records.
        specs: Canonical text of the spec of each key.
        rows: The records.
    """

    run: str
    numerics: int
    specs: Mapping[str, str]
    rows: Sequence[Row]


def write_part(folder: Path, run: str, specs: Mapping[str, str], rows: Sequence[Row]) -> Path:
    """Write a part file atomically, and return its path.

    Args:
        folder: Folder of the run's parts, created if it does not exist.
        run: Key of the run.
        specs: Canonical text of the spec of each key.
        rows: The records.

    Raises:
        StoreError: If the file cannot be written.
    """
    arrow, parquet = _pyarrow()
    types = dict(zip(COLUMNS, (arrow.string(), arrow.string(), arrow.float64(), arrow.string()), strict=True))
    table = arrow.table({name: arrow.array([row[name] for row in rows], kind) for name, kind in types.items()})
    manifest = {"format": FORMAT, "run": run, "numerics": NUMERICS, "specs": dict(specs)}
    file = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"attrlib": json.dumps(manifest)}), file)
    blob = file.getvalue()
    return write_file(folder / f"{hashlib.sha256(blob).hexdigest()[:32]}.parquet", blob)


def write_file(path: Path, blob: bytes) -> Path:
    """Write a file so that it is either whole or not there, and return its path.

    Raises:
        StoreError: If the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            # A node that dies right after the rename must not leave an empty file under the final name.
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(
            f"the shard cannot be written to {path.parent}: {reason(error, str(path.parent))}; then run the same command again, which goes on "
            "from what is stored"
        ) from None
    return path


def read_part(path: Path) -> Part:
    """Read a part file, and check that its content is what was written.

    Raises:
        BadPart: If the file is damaged or cannot be read.
        StoreError: If it is of another version of attrlib.
    """
    arrow, parquet = _pyarrow()
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise BadPart(f"{path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(blob).hexdigest()[:32] != path.stem:
        raise BadPart(f"{path} is damaged")
    try:
        table = parquet.read_table(io.BytesIO(blob))
        manifest = json.loads(table.schema.metadata[b"attrlib"])
        version, run, numerics, specs = manifest["format"], manifest["run"], manifest["numerics"], manifest["specs"]
        rows = table.select(COLUMNS).to_pylist()
    except (arrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise BadPart(f"{path} is not a part of a shard ({reason_of(error)})") from None
    if version != FORMAT:
        raise StoreError(
            f"{path} was written by another version of attrlib (format {version}, this is {FORMAT}); merge it with that version"
        )
    if any(digest(json.loads(text)) != key for key, text in specs.items()) or not {row["key"] for row in rows} <= specs.keys():
        raise BadPart(f"{path} is damaged: its records do not belong to their specs")
    return Part(run, numerics, specs, rows)


def items_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the key and the item of each record of a part file, without reading the values. A damaged file has none."""
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, columns=["key", "item"])
    except (OSError, arrow.ArrowException):
        return
    yield from zip(table["key"].to_pylist(), table["item"].to_pylist(), strict=True)


def parts_in(folder: Path) -> list[Path]:
    """Return the part files in a folder and its subfolders, each content once."""
    return list({path.name: path for path in sorted(folder.rglob("*.parquet")) if re.fullmatch("[0-9a-f]{32}", path.stem)}.values())


def _pyarrow() -> tuple[Any, Any]:
    # Slow to import, and needed only for shards.
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise StoreError("shards are Parquet files, which need the Python package pyarrow: pip install pyarrow") from None
    return pyarrow, pyarrow.parquet
