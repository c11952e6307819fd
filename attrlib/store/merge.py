"""Merge the shards of a run into a store. Every file is checked by its digest, and no record is added twice."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from attrlib.errors import SpecError, StoreError
from attrlib.specs import NUMERICS
from attrlib.store.parts import BadPart, Part, parts_in, read_part
from attrlib.store.records import Merged
from attrlib.store.shards import ShardManifest, differences, manifests_in, missing_shards, run_parts
from attrlib.store.store import Store

SHOWN = 6
"""Most missing shards that a message names."""


@dataclass(frozen=True)
class MergedShards:
    """The result of a merge.

    Attributes:
        run: Key of the run.
        shards: Number of finished shards.
        records: What was added.
        problems: What is missing or damaged and what to do, empty if the run is complete.
    """

    run: str
    shards: int
    records: Merged
    problems: Sequence[str]


def merge_shards(folders: Sequence[Path], store: Store) -> MergedShards:
    """Add the records of shards to a store, and the run if all of its shards are there.

    Sound files are merged even if others are damaged or missing. Merging the same files again changes nothing.

    Args:
        folders: Folders with shards; subfolders are searched.
        store: The store.

    Raises:
        SpecError: If a folder does not exist or has no shards.
        StoreError: If the shards are of different runs or were computed by another version; nothing is merged. Or if the store cannot
            be written; what was merged before stays.
    """
    problems: list[str] = []
    manifests = _manifests(folders, problems)
    files = {path.name: path for folder in folders for path in parts_in(folder)}
    if not files and not manifests and not problems:
        raise SpecError(f"there are no shards in {', '.join(map(str, folders))}; give the folder that score --shard has written to")
    if manifests:
        _check_alike(manifests)
    runs = {each.run for each in manifests}
    records = Merged()
    # All are checked before the first is merged, one at a time, as they do not fit into memory together.
    for path in [path for path in files.values() if _checked(path, runs, problems)]:
        part = read_part(path)
        records += store.merge_records(part.specs, part.rows)
    problems += [problem for each in manifests if (problem := _incomplete(each, files, store))]
    missing = missing_shards(each.shard for each in manifests) if manifests else []
    if missing:
        names = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        problems.append(
            f"{len(missing)} of {missing[0].count} shards {'is' if len(missing) == 1 else 'are'} missing ({names}): run score with "
            f"--shard {missing[0]}{' and so on' if len(missing) > 1 else ''}"
        )
    if not manifests:
        problems.append("no shard has finished: run score --shard again, which goes on from these files")
    for each in manifests[:1]:
        failures = {item: why for manifest in manifests for item, why in manifest.description.get("failures", {}).items()}
        store.save_run(each.run, {**each.description, **({"failures": failures} if failures else {})}, run_parts(manifests))
        store.set_state(each.run, "cancelled" if problems else "done")
    return MergedShards(next(iter(runs), ""), len({each.shard for each in manifests}), records, problems)


def import_parts(folder: Path, run: str, store: Store) -> Merged:
    """Add the records of the sound part files of a run to a store, so that a shard goes on where earlier ones were stopped.

    Args:
        folder: Folder of the run's parts.
        run: Key of the run.
        store: The store.

    Raises:
        StoreError: If the store cannot be written.
    """
    records = Merged()
    for path in parts_in(folder):
        try:
            part = read_part(path)
        except BadPart:
            # Its records are computed again, and merging names the file.
            continue
        if (part.run, part.numerics) == (run, NUMERICS):
            records += store.merge_records(part.specs, part.rows)
    return records


def _manifests(folders: Sequence[Path], problems: list[str]) -> list[ShardManifest]:
    manifests = []
    for folder in folders:
        if not folder.is_dir():
            raise SpecError(f"there is no folder {str(folder)!r}; give the folder that score --shard has written to")
        for path in manifests_in(folder):
            try:
                manifests.append(ShardManifest.read(path))
            except StoreError as error:
                problems.append(f"{error}: run score with --shard {path.stem.removeprefix('shard-').replace('-of-', '/')} again")
    return manifests


def _check_alike(manifests: Sequence[ShardManifest]) -> None:
    names = differences(manifests)
    if names:
        raise StoreError(f"the shards are not of one run: they differ in {', '.join(names)}; merge the shards of each run by themselves")
    if manifests[0].numerics != NUMERICS:
        raise StoreError(
            f"the shards were computed with numerics version {manifests[0].numerics}, this attrlib has {NUMERICS}; merge them with the version "
            "of attrlib that computed them, or run them again"
        )


def _checked(path: Path, runs: set[str], problems: list[str]) -> bool:
    """Return whether a part file is sound. Add what is wrong to `problems`; raise `StoreError` if it belongs to another run or version."""
    try:
        part: Part = read_part(path)
    except BadPart as error:
        problems.append(f"{error}: delete it, and run its shard again")
        return False
    runs.add(part.run)
    if len(runs) > 1:
        raise StoreError("the shards are not of one run: their files belong to different runs; merge the shards of each run by themselves")
    if part.numerics != NUMERICS:
        raise StoreError(
            f"the shards were computed with numerics version {part.numerics}, this attrlib has {NUMERICS}; merge them with the version "
            "of attrlib that computed them, or run them again"
        )
    return True


def _incomplete(manifest: ShardManifest, files: Collection[str], store: Store) -> str:
    """Return what is missing of a finished shard, empty if nothing is."""
    unreadable = set(manifest.unreadable)
    missing = 0
    for group in manifest.groups:
        items = [item for item in group.items if item not in unreadable]
        for label, key in group.evaluations.items():
            if label not in manifest.refused:
                missing += len(items) - len(store.values(key, items))
    gone = [name for name in manifest.files if name not in files]
    why = f", as {gone[0]} is missing" if gone else ""
    return f"shard {manifest.shard} lacks {missing} of its results{why}: run score with --shard {manifest.shard} again" if missing else ""
