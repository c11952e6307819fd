"""Manifests of finished shards, and what is still missing of a run that was computed in shards."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attrlib.errors import StoreError, reason_of
from attrlib.specs import Shard, digest
from attrlib.store.parts import FORMAT, write_file

MOST_RESIDUES = 10_000_000
"""Largest number of classes of items by which different numbers of shards are combined."""


@dataclass(frozen=True)
class ShardGroup:
    """The items of a shard under the protocols that share them.

    Attributes:
        evaluations: Key of the records by label, `PROTOCOL|METHOD`.
        items: Keys of the items.
        positions: Position of each item in the whole run.
        total: Number of items in the whole run.
    """

    evaluations: Mapping[str, str]
    items: Sequence[str]
    positions: Sequence[int]
    total: int


@dataclass(frozen=True)
class ShardManifest:
    """What a finished shard consists of.

    Attributes:
        run: Key of the run.
        description: The run: kind, title, spec and digest of the model.
        numerics: Version of the numerics.
        maps: Precision of the maps, on which scores depend.
        shard: The shard.
        groups: Its items.
        refused: Why evaluations, by label, are not defined.
        unreadable: Keys of the items that cannot be read.
        files: Names of the part files with records of the shard. A name is the SHA-256 digest of the content.
    """

    run: str
    description: Mapping[str, Any]
    numerics: int
    maps: str
    shard: Shard
    groups: Sequence[ShardGroup]
    refused: Mapping[str, str]
    unreadable: Sequence[str]
    files: Sequence[str]

    def write(self, folder: Path) -> Path:
        """Write the manifest atomically into a folder, and return its path. Raises `StoreError` if that fails."""
        fields = {"format": FORMAT} | asdict(self)
        text = json.dumps(fields | {"digest": digest(fields)})
        return write_file(folder / f"shard-{self.shard.index}-of-{self.shard.count}.json", text.encode())

    @classmethod
    def read(cls, path: Path) -> "ShardManifest":
        """Read a manifest, and check that it is what was written.

        Raises:
            StoreError: If it is damaged or of another version.
        """
        try:
            fields = json.loads(path.read_bytes())
            claimed, version = fields.pop("digest"), fields["format"]
            if version == FORMAT and digest(fields) == claimed:
                del fields["format"]
                groups = [ShardGroup(**group) for group in fields.pop("groups")]
                return cls(shard=Shard(**fields.pop("shard")), groups=groups, **fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read ({reason_of(error)})") from None
        if version != FORMAT:
            raise StoreError(
                f"{path} was written by another version of attrlib (format {version}, this is {FORMAT}); merge it with that version"
            )
        raise StoreError(f"{path} is damaged")


def manifests_in(folder: Path) -> list[Path]:
    """Return the files of manifests in a folder and its subfolders."""
    return [path for path in sorted(folder.rglob("shard-*.json")) if re.fullmatch(r"shard-\d+-of-\d+", path.stem)]


def missing_shards(shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards that are still needed to cover all items; none if nothing is missing.

    Shards of different numbers, as of a run that was continued with another number, cover items together.
    """
    finished = set(shards)
    counts: dict[int, int] = {}
    for shard in finished:
        counts[shard.count] = counts.get(shard.count, 0) + 1
    used = [max(counts, key=lambda count: (counts[count] / count, count))]
    for count in sorted(counts):
        if count not in used and math.lcm(*used, count) <= MOST_RESIDUES:
            used.append(count)
    covered = np.zeros(math.lcm(*used), dtype=bool)
    for shard in finished:
        if shard.count in used:
            covered[shard.index :: shard.count] = True
    needed = {count: np.unique(np.flatnonzero(~covered) % count) for count in used}
    count = min(used, key=lambda count: (len(needed[count]) / count, -counts[count]))
    return [Shard(int(index), count) for index in needed[count]]


def differences(manifests: Sequence[ShardManifest]) -> list[str]:
    """Return the names of the fields in which the shards of a run must agree, but do not."""
    first = manifests[0]
    names = [name for name in ("numerics", "maps") if any(getattr(each, name) != getattr(first, name) for each in manifests)]
    if any(each.run != first.run for each in manifests):
        specs = [dict(each.description.get("spec") or {}) | {"weights": each.description.get("model_digest")} for each in manifests]
        fields = dict.fromkeys(name for spec in specs for name in spec)
        names += [name for name in fields if any(spec.get(name) != specs[0].get(name) for spec in specs)]
    return names


def run_parts(manifests: Sequence[ShardManifest]) -> dict[str, dict[str, Any]]:
    """Return the parts of the whole run, see `Run`, as far as the shards have finished.

    Raises:
        StoreError: If two shards have different items at one position.
    """
    placed: dict[str, dict[int, str]] = {}
    keys: dict[str, str] = {}
    totals: dict[str, tuple[int, Shard]] = {}
    refused = {label for each in manifests for label in each.refused}
    for manifest in manifests:
        for group in manifest.groups:
            for label, key in group.evaluations.items():
                total, other = totals.setdefault(label, (group.total, manifest.shard))
                items = placed.setdefault(label, {})
                new = dict(zip(group.positions, group.items, strict=True))
                if total != group.total or keys.setdefault(label, key) != key or any(items.get(k, item) != item for k, item in new.items()):
                    raise StoreError(
                        f"the shards {other} and {manifest.shard} have different items under {label.partition('|')[0]}: their machines read "
                        "different files; give all of them the same data, and run one of these shards again"
                    )
                items |= new
    unreadable = {item for each in manifests for item in each.unreadable}
    return {
        label: {"key": keys[label], "items": [item for _position, item in sorted(items.items()) if item not in unreadable]}
        for label, items in placed.items()
        if label not in refused
    }
