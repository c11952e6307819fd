"""Export the scores of a run as a table: CSV, JSON or Parquet."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from attrlib.errors import SpecError, unknown
from attrlib.store.records import Record
from attrlib.store.runs import Run

COLUMNS = ("protocol", "method", "item", "value")
Rows = Sequence[tuple[str, str, str, float]]


def export(run: Run, records: Callable[[str, Sequence[str]], Mapping[str, Record]], format: str) -> bytes:  # noqa: A002
    """Export the scores of a run: a row for each protocol, method and cached item, in the order of the manifest.

    An undefined score is empty in CSV, and null in JSON and Parquet. JSON contains the manifest next to the rows, Parquet as JSON in
    the schema metadata `attrlib`.

    Args:
        run: The manifest of the run.
        records: Function that returns the cached records of a key and items, for example `Store.records`.
        format: `csv`, `json` or `parquet`.

    Returns:
        The bytes of the file.

    Raises:
        SpecError: If the format is unknown.
    """
    if format not in _WRITERS:
        raise SpecError(unknown("format of an export", format, _WRITERS))
    return _WRITERS[format](asdict(run), list(_rows(run, records)))


def _rows(run: Run, records: Callable[[str, Sequence[str]], Mapping[str, Record]]) -> Iterator[tuple[str, str, str, float]]:
    for label, part in run.parts.items():
        protocol, _, method = label.partition("|")
        cached = records(part["key"], part["items"])
        yield from ((protocol, method, item, cached[item].value) for item in part["items"] if item in cached)


def _csv(_manifest: Mapping[str, Any], rows: Rows) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((*names, "" if math.isnan(value) else repr(value)) for *names, value in rows)
    return file.getvalue().encode()


def _json(manifest: Mapping[str, Any], rows: Rows) -> bytes:
    values = [dict(zip(COLUMNS, (*names, value if math.isfinite(value) else None), strict=True)) for *names, value in rows]
    return json.dumps({"manifest": manifest, "rows": values}, indent=1, allow_nan=False).encode()


def _parquet(manifest: Mapping[str, Any], rows: Rows) -> bytes:
    # Slow to import, and needed only for this format.
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    types = [pa.string()] * 3 + [pa.float64()]
    columns = [pa.array([row[i] for row in rows], kind, from_pandas=True) for i, kind in enumerate(types)]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, COLUMNS, metadata={"attrlib": json.dumps(manifest)}), file)
    return file.getvalue()


_WRITERS: dict[str, Callable[[Mapping[str, Any], Rows], bytes]] = {"csv": _csv, "json": _json, "parquet": _parquet}
FORMATS = tuple(_WRITERS)
