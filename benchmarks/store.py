"""Measure the store with made-up records: `python -m benchmarks.store --rows 1000000 --url postgresql://...`.

Fills a new store as a run of many methods would, and prints: rows inserted a second, in batches as workers send them; the time to look up
what is missing of one evaluation; the time of the leaderboard of one run (mean and count of each of its methods), and of the whole table.
The share of the run stays at one in sixteen, as for sixteen models. Without `--url` the store is an SQLite file in a temporary folder; the
tables of a PostgreSQL database are replaced.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import func, select

from attrlib.store import Record, Store
from attrlib.store.tables import records

MODELS, METHODS = 16, 20
BATCH = 16
"""Records written at once by a worker: the items of a chunk."""
DETAILS = {"drops": [0.25] * 16, "attributions": [0.5] * 16}
CHUNK = 20_000


@contextmanager
def timed(label: str, count: int = 0) -> Iterator[None]:
    """Print the seconds of the block, and the count per second."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{label:58} {seconds:9.3f} s{f'  {count / seconds:12,.0f} a second' if count else ''}", flush=True)


def keys_of(model: int) -> list[str]:
    """Return the keys of the evaluations of a model."""
    return [f"{model * METHODS + method:032x}" for method in range(METHODS)]


def items_of(count: int) -> list[str]:
    """Return the keys of items, as random as digests are."""
    draw = random.Random(0)
    return [f"{draw.getrandbits(128):032x}" for _ in range(count)]


def fill(store: Store, items: list[str]) -> None:
    """Write a record for each item under each key."""
    for model in range(MODELS):
        for key in keys_of(model):
            for first in range(0, len(items), CHUNK):
                rows = [
                    dict(key=key, item=item, value=(place + model) % 100 / 100, details=DETAILS_TEXT)
                    for place, item in enumerate(items[first : first + CHUNK])
                ]
                store.merge_records({key: "{}"}, rows)


DETAILS_TEXT = str(DETAILS).replace("'", '"')


def means(store: Store, keys: list[str]) -> list[object]:
    """Return the mean and the number of values of each key."""
    query = select(records.c.key, func.avg(records.c.value), func.count(records.c.value)).where(records.c.key.in_(keys))
    return store._database.read(lambda c: list(c.execute(query.group_by(records.c.key))))


def best(work: Callable[[], object], times: int = 3) -> float:
    """Return the median seconds of a function."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(store: Store, rows: int) -> None:
    """Fill the store, and print all times."""
    items = items_of(rows // (MODELS * METHODS))
    total = len(items) * MODELS * METHODS
    with timed(f"{total:,} rows merged, {CHUNK:,} at once", total):
        fill(store, items)
    more = items_of(len(items) + 200 * BATCH)[len(items) :]
    with timed(f"{len(more):,} rows more, {BATCH} at once, as workers send them", len(more)):
        for first in range(0, len(more), BATCH):
            store.add_records(keys_of(0)[0], {}, {item: Record(0.5, DETAILS) for item in more[first : first + BATCH]})
    key = keys_of(MODELS // 2)[0]
    absent = items_of(2 * len(items))[len(items) :]
    print(f"{'what is missing of one evaluation, all there':58} {best(lambda: store.values(key, items)):9.3f} s  for {len(items):,} items")
    print(f"{'what is missing of one evaluation, nothing there':58} {best(lambda: store.values(key, absent)):9.3f} s")
    board = best(lambda: [store.values(key, items) for key in keys_of(3)])
    print(f"{'values of one run, as a leaderboard reads them':58} {board:9.3f} s  for {len(items) * METHODS:,} rows")
    print(f"{'means of one run, in SQL':58} {best(lambda: means(store, keys_of(3))):9.3f} s")
    everything = [key for model in range(MODELS) for key in keys_of(model)]
    print(f"{'means of all runs, in SQL':58} {best(lambda: means(store, everything), 1):9.3f} s  for {total:,} rows")
    sizes = store.sizes()
    print(f"{'size':58} {sizes.database_bytes / 2**20:9.0f} MB, {sizes.database_bytes / sizes.records:.0f} bytes a row")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="database whose tables are replaced; by default an SQLite file in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, closing(Store(options.url, Path(folder))) as store:
        store.prune(everything=True)
        measure(store, options.rows)
        if options.url:
            store.prune(everything=True)


if __name__ == "__main__":
    main()
