"""A run in shards: each computes its own items, and merged they are the run, whatever happens to files and machines in between."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import BUSY, GRID, Calls, alone, compare, same, spec_of, spoil, stop_at

import attrlib.engine.shards
import attrlib.store.merge
import attrlib.store.parts
from attrlib.data.datasets import load_dataset
from attrlib.engine.shards import ShardResult, run_shard
from attrlib.errors import Cancelled, SpecError, StoreError
from attrlib.specs import RunSpec, Shard
from attrlib.store import ShardManifest, Store, merge_shards
from attrlib.store.failures import Unavailable
from attrlib.store.shards import missing_shards

PROTOCOLS = f"sds,sds:target=prediction,{GRID}"


@pytest.fixture
def spec(model: attrlib.Classifier, data: Path) -> RunSpec:
    return spec_of(model, PROTOCOLS, BUSY, data)


class Cluster:
    """Machines that share a folder of shards, each with a store of its own."""

    def __init__(self, model: attrlib.Classifier, folder: Path):
        self.model, self.folder, self._machines = model, folder, folder.with_name("machines")
        self.count = 0

    def run(self, spec: RunSpec, text: str, *, store: Store | None = None, **options: Any) -> ShardResult:
        """Run a shard on a machine that has not computed anything yet."""
        self.count += 1
        with closing(store or alone(self._machines / str(self.count))) as own:
            return run_shard(spec, Shard.parse(text), self.model, load_dataset(spec.data), own, self.folder, **options)

    def run_all(self, spec: RunSpec, count: int, skip: tuple[int, ...] = ()) -> None:
        for index in set(range(count)) - set(skip):
            self.run(spec, f"{index}/{count}")

    @property
    def parts(self) -> list[Path]:
        return sorted(self.folder.rglob("*.parquet"))

    def manifest(self, text: str) -> Path:
        (path,) = self.folder.rglob(f"shard-{text.replace('/', '-of-')}.json")
        return path


@pytest.fixture
def cluster(model: attrlib.Classifier, tmp_path: Path) -> Cluster:
    return Cluster(model, tmp_path / "shards")


@pytest.fixture
def whole(model: attrlib.Classifier, data: Path, tmp_path: Path) -> Iterator[attrlib.RunResult]:
    with closing(alone(tmp_path / "whole")) as store:
        yield compare(model, PROTOCOLS, BUSY, data, store)


def merged(cluster: Cluster, store: Store, *folders: Path) -> list[str]:
    return list(merge_shards(folders or [cluster.folder], store).problems)


def of_the_store(model: attrlib.Classifier, data: Path, store: Store) -> attrlib.RunResult:
    result = compare(model, PROTOCOLS, BUSY, data, store)
    assert result.computed == 0
    return result


# The shard


@pytest.mark.parametrize("text", ["3/64", "0/1", " 63/64 "])
def test_a_shard_has_a_text_form(text: str) -> None:
    assert str(Shard.parse(text)) == text.strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64/64", "numbered from 0; choose one from 0/64 to 63/64"),
        ("3", "write INDEX/COUNT"),
        ("-1/4", "write INDEX/COUNT"),
        ("1/0", "the number of shards is from 1"),
        ("1/99999999", "the number of shards is from 1 to 100000"),
        ("٣/4", "write INDEX/COUNT"),
    ],
)
def test_a_text_that_is_no_shard_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Shard.parse(text)


def slurm(**values: object) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({}, None),
        (slurm(ID=3, COUNT=64, MIN=0, MAX=63, STEP=1), Shard(3, 64)),
        (slurm(ID=1, COUNT=64, MIN=1, MAX=64, STEP=1), Shard(0, 64)),
        (slurm(ID=64, COUNT=64, MIN=1, MAX=64), Shard(63, 64)),
        (slurm(ID=10, COUNT=6, MIN=0, MAX=10, STEP=2), Shard(5, 6)),
    ],
)
def test_a_task_of_a_slurm_array_is_a_shard(environ: dict[str, str], shard: Shard | None) -> None:
    assert Shard.of_slurm(environ) == shard


@pytest.mark.parametrize("environ", [slurm(ID=7, COUNT=2, MIN=3, MAX=7), slurm(ID=7, COUNT="x"), slurm(ID=3, COUNT=4, STEP=0)])
def test_an_uneven_slurm_array_does_not_tell_the_shard(environ: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=f"task {environ['SLURM_ARRAY_TASK_ID']} .* does not tell its shard.*--shard 3/64"):
        Shard.of_slurm(environ)


def test_every_item_is_in_one_shard_and_shards_are_about_equal() -> None:
    items = [f"{k:032x}" for k in range(4000)]
    shares = [{item for item in items if Shard(k, 8).holds(item)} for k in range(8)]
    assert sorted(item for share in shares for item in share) == items
    assert all(400 < len(share) < 600 for share in shares)
    assert shares[3] == {item for item in items if Shard(3, 16).holds(item) or Shard(11, 16).holds(item)}


@pytest.mark.parametrize(
    ("finished", "missing"),
    [
        (["0/2", "1/2"], []),
        (["0/2", "1/4"], ["3/4"]),
        (["0/2", "1/4", "3/4"], []),
        (["0/3", "2/3", "1/2"], ["1/3"]),
        (["0/3", "2/3", "1/2", "0/2"], []),
        (["5/64"], [f"{k}/64" for k in range(64) if k != 5]),
    ],
)
def test_shards_of_different_numbers_cover_items_together(finished: list[str], missing: list[str]) -> None:
    assert [str(shard) for shard in missing_shards(map(Shard.parse, finished))] == missing


# All is well


def test_merged_shards_are_the_run_bit_for_bit_and_no_map_is_computed_twice(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec, calls: Calls, whole: attrlib.RunResult
) -> None:
    once = calls.times
    calls.clear()
    cluster.run_all(spec, 3)
    assert calls.times == once
    assert merged(cluster, store) == []
    assert same(of_the_store(model, data, store), whole)
    (run,) = store.runs()
    assert run.state == "done"
    assert {label: part["items"] for label, part in run.parts.items()} == {
        f"{p}|{m}": [item.key(score.protocol.target_choice) for item in items_of(score)] for (p, m), score in whole.scores.items()
    }


def items_of(score: attrlib.Score) -> list[Any]:
    from attrlib.engine.items import EvalItem

    return [EvalItem(*item) for item in zip(score.ids, score.items, score.labels, strict=True)]


def test_merging_again_or_a_shard_that_is_given_twice_changes_nothing(
    store: Store, cluster: Cluster, spec: RunSpec, tmp_path: Path
) -> None:
    cluster.run_all(spec, 2)
    assert merged(cluster, store) == []
    sizes = store.sizes()
    copy = Path(shutil.copytree(cluster.folder, tmp_path / "copy"))
    cluster.run(spec, "1/2")  # the same shard on another machine
    result = merge_shards([cluster.folder, copy, copy], store)
    assert (result.problems, result.records.new, result.records.differing) == ([], 0, 0)
    again = store.sizes()
    assert (again.specs, again.records, again.runs) == (sizes.specs, sizes.records, 1)


def test_results_from_before_there_were_shards_are_in_their_files(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec, tmp_path: Path, calls: Calls
) -> None:
    with closing(alone(tmp_path / "before")) as before:
        compare(model, PROTOCOLS, BUSY, data, before)
        calls.clear()
        for index in range(2):
            result = cluster.run(spec, f"{index}/2", store=before)
            assert (result.computed, result.cached > 0) == (0, True)
    assert merged(cluster, store) == []
    of_the_store(model, data, store)
    assert not calls


def test_a_shard_without_items_is_a_shard(store: Store, cluster: Cluster, model: attrlib.Classifier, data: Path) -> None:
    spec = spec_of(model, f"sds,{GRID}", "IxG", data, limit=1)
    cluster.run_all(spec, 5)
    assert merged(cluster, store) == []
    assert compare(model, f"sds,{GRID}", "IxG", data, store, limit=1).computed == 0


def test_unreadable_pictures_are_no_missing_results(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, calls: Calls, tmp_path: Path
) -> None:
    spoil(data)
    spec = spec_of(model, PROTOCOLS, BUSY, data)
    cluster.run_all(spec, 12)  # some have only the unreadable picture
    assert merged(cluster, store) == []
    assert {why.partition(" ")[0] for run in store.runs() for why in run.failures.values()} == {"1/9", "2/0"}
    with closing(alone(tmp_path / "whole")) as other:
        assert same(of_the_store(model, data, store), compare(model, PROTOCOLS, BUSY, data, other))


def test_evaluations_that_are_not_defined_are_no_missing_results(
    store: Store, cluster: Cluster, model: attrlib.Classifier, data: Path
) -> None:
    spec = spec_of(model, "sds", "IxG,Rollout", data)
    cluster.run_all(spec, 2)
    assert merged(cluster, store) == []
    assert [label for run in store.runs() for label in run.parts] == ["sds|IxG"]


def test_a_shard_cannot_stop_by_the_width_of_an_interval(cluster: Cluster, model: attrlib.Classifier, data: Path) -> None:
    with pytest.raises(SpecError, match="ci_width stops a run by the scores of all its items"):
        cluster.run(spec_of(model, "sds", "IxG", data, ci_width=0.5), "0/2")


# Bad luck


def test_a_stopped_shard_goes_on_with_another_number_of_shards_and_computes_nothing_twice(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec, calls: Calls, whole: attrlib.RunResult
) -> None:
    once = calls.times
    calls.clear()
    cluster.run(spec, "0/3")
    with pytest.raises(Cancelled):
        cluster.run(spec, "1/3", on_progress=stop_at(30))
    assert 0 < len(calls) < sum(once.values())
    cluster.run_all(spec, 2)
    twice = calls.times - once
    # Maps are not in the files of shards: only the chunk in flight, whose maps were not scored yet, is computed again.
    assert sum(twice.values()) <= 16 * len(spec.methods)
    assert merged(cluster, store) == []
    assert same(of_the_store(model, data, store), whole)


def test_a_missing_shard_is_named_and_what_is_there_is_merged(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec, whole: attrlib.RunResult
) -> None:
    cluster.run_all(spec, 4, skip=(1, 3))
    (problem,) = merged(cluster, store)
    assert problem == "2 of 4 shards are missing (1/4, 3/4): run score with --shard 1/4 and so on"
    assert store.sizes().records > 0
    assert [run.state for run in store.runs()] == ["cancelled"]
    cluster.run(spec, "1/4")
    assert merged(cluster, store) == ["1 of 4 shards is missing (3/4): run score with --shard 3/4"]
    cluster.run(spec, "3/4")
    assert merged(cluster, store) == []
    assert [run.state for run in store.runs()] == ["done"]
    assert same(of_the_store(model, data, store), whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named_and_its_shard_computed_again(
    damage: str, model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec, whole: attrlib.RunResult
) -> None:
    cluster.run_all(spec, 2)
    names = json.loads(cluster.manifest("1/2").read_text())["files"]
    bad = next(path for path in cluster.parts if path.name in names)
    blob = bytearray(bad.read_bytes())
    if damage == "gone":
        bad.unlink()
    else:
        blob[len(blob) // 2] ^= 1
        bad.write_bytes(blob[:-50] if damage == "cut" else blob)
    problems = merged(cluster, store)
    if damage != "gone":
        assert problems.pop(0) == f"{bad} is damaged: delete it, and run its shard again"
    assert len(problems) == 1
    assert problems[0].startswith("shard 1/2 lacks ")
    assert problems[0].endswith(" of its results: run score with --shard 1/2 again" if damage != "gone" else "with --shard 1/2 again")
    assert (bad.name in problems[0]) == (damage == "gone")
    bad.unlink(missing_ok=True)
    cluster.run(spec, "1/2")
    assert merged(cluster, store) == []
    assert same(of_the_store(model, data, store), whole)


def test_a_damaged_manifest_is_named(store: Store, cluster: Cluster, spec: RunSpec) -> None:
    cluster.run_all(spec, 2)
    path = cluster.manifest("0/2")
    whole = path.read_text()
    path.write_text(whole.replace('"total": 20', '"total": 21'))
    assert merged(cluster, store)[0] == f"{path} is damaged: run score with --shard 0/2 again"
    path.write_text(whole[:100])
    first, second = merged(cluster, store)
    assert first.startswith(f"{path} cannot be read (")
    assert second == "1 of 2 shards is missing (0/2): run score with --shard 0/2"
    cluster.run(spec, "0/2")
    assert merged(cluster, store) == []


def test_a_file_with_the_name_of_its_content_but_records_of_another_spec_is_refused(store: Store, cluster: Cluster, spec: RunSpec) -> None:
    cluster.run(spec, "0/1")
    part = attrlib.store.parts.read_part(cluster.parts[0])
    cluster.parts[0].unlink()
    key = next(iter(part.specs))
    changed = {name: text.replace("{", '{"fast":3,', 1) if name == key else text for name, text in part.specs.items()}
    attrlib.store.parts.write_part(cluster.folder, part.run, changed, part.rows)
    assert "its records do not belong to their specs" in merged(cluster, store)[0]
    assert store.sizes().records == 0


def test_shards_of_different_runs_are_refused_and_nothing_is_merged(
    store: Store, cluster: Cluster, spec: RunSpec, model: attrlib.Classifier, data: Path
) -> None:
    cluster.run(spec, "0/2")
    cluster.run(spec_of(model, PROTOCOLS, BUSY, data, seed=1, limit=8), "1/2")
    with pytest.raises(StoreError, match=r"not of one run: they differ in limit, seed|not of one run: they differ in seed, limit"):
        merged(cluster, store)
    assert (store.sizes().records, store.runs()) == (0, [])


def test_unfinished_shards_of_different_runs_are_refused(
    store: Store, cluster: Cluster, spec: RunSpec, model: attrlib.Classifier, data: Path
) -> None:
    cluster.run(spec, "0/2")
    cluster.run(spec_of(model, PROTOCOLS, BUSY, data, seed=1), "1/2")
    cluster.manifest("1/2").unlink()
    with pytest.raises(StoreError, match="their files belong to different runs"):
        merged(cluster, store)
    assert store.sizes().records == 0


def test_shards_with_other_types_of_maps_are_refused(store: Store, cluster: Cluster, spec: RunSpec, tmp_path: Path) -> None:
    cluster.run(spec, "0/2")
    cluster.run(spec, "1/2", store=Store(folder=tmp_path / "half", dtype="float16"))
    with pytest.raises(StoreError, match="differ in maps;"):
        merged(cluster, store)


def test_shards_of_other_numerics_are_refused(store: Store, cluster: Cluster, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.run_all(spec, 2)
    with monkeypatch.context() as patch:
        patch.setattr(attrlib.store.merge, "NUMERICS", 99)
        with pytest.raises(StoreError, match="computed with numerics version 2, this attrlib has 99"):
            merged(cluster, store)
        for index in range(2):
            cluster.manifest(f"{index}/2").unlink()
        with pytest.raises(StoreError, match="computed with numerics version 2, this attrlib has 99"):
            merged(cluster, store)
    assert store.sizes().records == 0


def test_machines_with_different_pictures_are_found(
    store: Store, cluster: Cluster, model: attrlib.Classifier, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(model, "sds", "IxG", data)
    cluster.run(spec, "0/2")
    for image in (data / "2").iterdir():
        image.unlink()
    cluster.run(spec, "1/2")
    with pytest.raises(StoreError, match="the shards 0/2 and 1/2 have different items under sds: their machines read different files"):
        merged(cluster, store)


def test_on_a_full_disk_a_shard_stops_and_loses_nothing(
    model: attrlib.Classifier, store: Store, cluster: Cluster, spec: RunSpec, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(attrlib.engine.shards, "ROWS_PER_PART", 40)
    with monkeypatch.context() as patch:
        patch.setattr(attrlib.store.parts.os, "fsync", full)
        with pytest.raises(
            StoreError, match=r"cannot be written to .*: the disk is full; free some space; then run the same command again"
        ):
            cluster.run(spec, "0/1", store=Store(folder=tmp_path / "machine"))
    assert not [path for path in cluster.folder.rglob("*") if path.is_file()]
    cluster.run(spec, "0/1", store=Store(folder=tmp_path / "machine"))
    assert len(cluster.parts) > 1
    assert sum(count - 1 for count in calls.times.values()) <= 16, "the chunk in flight"
    assert merged(cluster, store) == []


def test_a_store_that_cannot_be_written_is_said_and_merging_goes_on_later(
    store: Store, cluster: Cluster, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.run_all(spec, 2)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise Unavailable("the disk is full; free some space")

        patch.setattr(store._database, "write", full)
        with pytest.raises(StoreError, match="the disk is full; free some space"):
            merged(cluster, store)
    assert store.sizes().records == 0
    assert merged(cluster, store) == []


def test_results_that_differ_from_the_store_are_counted_and_the_store_stays(
    model: attrlib.Classifier, data: Path, store: Store, cluster: Cluster, spec: RunSpec
) -> None:
    cluster.run(spec, "0/1")
    part = attrlib.store.parts.read_part(cluster.parts[0])
    row = next(row for row in part.rows if row["value"] is not None)
    store.merge_records(part.specs, [{**row, "value": row["value"] + 0.5}])
    result = merge_shards([cluster.folder], store)
    assert (result.problems, result.records.differing, result.records.largest) == ([], 1, pytest.approx(0.5))
    assert store.values(row["key"], [row["item"]]) == {row["item"]: row["value"] + 0.5}


def test_a_folder_without_shards_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there are no shards in"):
        merge_shards([tmp_path], store)
    with pytest.raises(SpecError, match="there is no folder"):
        merge_shards([tmp_path / "nowhere"], store)


def test_results_that_are_missing_for_no_reason_leave_the_shard_unfinished(cluster: Cluster, spec: RunSpec, tmp_path: Path) -> None:
    class Forgetful(Store):
        def add_records(self, key: str, spec: Any, records: Any) -> None:
            super().add_records(key, spec, dict(list(records.items())[: 1 if spec["kind"] == "score" else None]))

    with pytest.raises(StoreError, match=r"shard 0/1 lacks \d+ of its results"):
        cluster.run(spec, "0/1", store=Forgetful(folder=tmp_path / "machine"))
    assert not list(cluster.folder.rglob("shard-*.json"))


def test_a_manifest_is_written_and_read_back(cluster: Cluster, spec: RunSpec) -> None:
    cluster.run(spec, "0/2")
    manifest = ShardManifest.read(cluster.manifest("0/2"))
    assert manifest.shard == Shard(0, 2)
    assert manifest.description["title"] == spec.cli()
    assert [group.total for group in manifest.groups] == [20, 20, 5]
