"""A share of the items of a run, for machines that share no store."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from attrlib.errors import SpecError

MOST_SHARDS = 100_000
"""Largest number of shards of a run."""


@dataclass(frozen=True, order=True)
class Shard:
    """One of `count` disjoint shares of the items, numbered from 0.

    The share of an item depends on its content alone, not on the other items: each machine can take any shards in any order, and a run
    can be continued with another number of shards. All results of an image are in one shard, so that protocols share its maps.

    Attributes:
        index: Number of the shard, from 0.
        count: Number of shards.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse `INDEX/COUNT`, such as `3/64`.

        Raises:
            SpecError: If the text is not a shard.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise SpecError(f"shard {text[:40]!r} is not valid; write INDEX/COUNT, such as 0/64 for the first of 64 shards")
        index, count = int(match[1]), int(match[2])
        if not 1 <= count <= MOST_SHARDS:
            raise SpecError(f"shard {text[:40]!r} is not valid; the number of shards is from 1 to {MOST_SHARDS}")
        if index >= count:
            raise SpecError(
                f"there is no shard {index} of {count}: shards are numbered from 0; choose one from 0/{count} to {count - 1}/{count}"
            )
        return cls(index, count)

    @classmethod
    def of_slurm(cls, environ: Mapping[str, str]) -> "Shard | None":
        """Return the shard of a task of a Slurm job array, None outside of one.

        Args:
            environ: Environment variables, of which those that begin with `SLURM_ARRAY_TASK_` are read.

        Raises:
            SpecError: If the numbers of the tasks are not evenly spaced, so that they do not tell the shard.
        """
        names = {"ID": None, "COUNT": None, "MIN": "0", "STEP": "1"}
        texts = {name: environ.get(f"SLURM_ARRAY_TASK_{name}", default) for name, default in names.items()}
        if texts["ID"] is None or texts["COUNT"] is None:
            return None
        try:
            task, count, first, step = (int(text or "") for text in texts.values())
            index, rest = divmod(task - first, step)
        except (ValueError, ZeroDivisionError):
            index, rest, count = 0, 1, 0
        if rest or not 0 <= index < count <= MOST_SHARDS:
            raise SpecError(
                f"task {texts['ID']} of this Slurm array does not tell its shard, as the tasks are not numbered evenly; "
                "submit the array with --array=0-63, or give the shard, such as --shard 3/64"
            )
        return cls(index, count)

    def holds(self, item: str) -> bool:
        """Return whether an item belongs to this shard.

        Args:
            item: The item's id, see `EvalItem`.
        """
        return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest()) % self.count == self.index
