"""The files of deploy/ for several machines, with stand-ins for Slurm: what they start, and that the runs they start are complete."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import make_url
from support.waiting import LIMIT
from test_deploy import DEPLOY, RECORDER

from attrlib.store import Store

SLURM = DEPLOY / "slurm"
OPTIONS = ("--model", "birds_resnet10", "--data", "birds", "--protocol", "sds", "--methods", "IxG,Gradient", "--limit", "40")
RESULTS = 80
ATTRLIB = f"""#!/usr/bin/env bash
exec {sys.executable} -m attrlib "$@"
"""
SRUN = """#!/usr/bin/env bash
# Stands in for Slurm's program: one task, on this machine.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SBATCH = """#!/usr/bin/env bash
# Stands in for Slurm's program: runs a job at once, without those tasks of an array that FAILING lists, and prints its number.
while [[ $1 == --* ]]; do
    echo "$1" >>"$LOG"
    [[ $1 == --array=* ]] && tasks=${1#--array=}
    shift
done
if [[ ${tasks:-} == 0-* ]]; then tasks=$(seq -s, 0 "${tasks#0-}"); fi
export SLURM_CPUS_PER_TASK=1 SLURM_ARRAY_TASK_COUNT=$(tr , '\\n' <<<"${tasks:-0}" | wc -l) SLURM_ARRAY_TASK_MIN=${tasks%%,*}
for task in $(tr , ' ' <<<"${tasks:-none}"); do
    [[ ,${FAILING:-}, == *,$task,* ]] && continue
    if [ "$task" = none ]; then unset SLURM_ARRAY_TASK_COUNT; else export SLURM_ARRAY_TASK_ID=$task; fi
    code=0
    bash "$@" >>"$LOG" 2>&1 </dev/null || code=$?
    echo "$(basename "$1") ended with $code" >>"$LOG"
done
echo "4711;cluster"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with Slurm's programs and `attrlib`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in {"srun": SRUN, "sbatch": SBATCH, "attrlib": ATTRLIB}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def environment(programs: Path, tmp_path: Path, **settings: str) -> Mapping[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ATTRLIB_STORE", "SLURM_", "RAY_", "PG"))}
    paths = os.pathsep.join([str(DEPLOY.parent), os.environ.get("PYTHONPATH", "")])
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    return clean | own | {"ATTRLIB_CACHE": str(tmp_path / "cache"), "LOG": str(tmp_path / "log")} | settings


def call(*command: str | Path, **settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL, **settings)


def stored(store: Store) -> int:
    """Return the number of scores of the store's only run."""
    (run,) = store.runs()
    return sum(len(store.values(part["key"], part["items"])) for part in run.parts.values())


# One job with Ray on its nodes


def started(programs: Path, tmp_path: Path, **settings: str) -> tuple[list[str], Mapping[str, str]]:
    """Return how ray.sbatch calls Ray."""
    (programs / "ray").write_text(RECORDER)
    (programs / "ray").chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "3", "SLURM_CPUS_PER_TASK": "6"}
    done = call(
        "bash", SLURM / "ray.sbatch", "--data", "birds", "--methods", "IxG, IG", env=environment(programs, tmp_path, **job, **settings)
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not Path(said["environment"]["RAY_TMPDIR"]).exists()
    return said["arguments"], said["environment"]


def test_ray_gets_what_slurm_has_granted_and_a_token_of_this_job(programs: Path, tmp_path: Path) -> None:
    arguments, first = started(programs, tmp_path, ATTRLIB_HEAD="10.0.0.7", SLURM_GPUS_ON_NODE="8")
    place = arguments.index("--")
    address = next(each for each in arguments if each.startswith("--address=")).removeprefix("--address=")
    assert re.fullmatch(r"10\.0\.0\.7:2\d{4}", address)
    assert arguments[0] == "symmetric-run"
    assert {"--min-nodes=3", "--num-cpus=6", "--num-gpus=8"} == set(arguments[2:place])
    assert arguments[place + 1 :] == ["attrlib", "score", "--cluster", f"ray://{address}", "--data", "birds", "--methods", "IxG, IG"]
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_TMPDIR"]) <= 20, "the paths of Ray's sockets may have 107 bytes"
    arguments, second = started(programs, tmp_path)
    assert "--num-gpus=0" in arguments
    assert all(re.fullmatch("[0-9a-f]{64}", each["RAY_AUTH_TOKEN"]) for each in (first, second))
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


# An array of shards


def submit(programs: Path, tmp_path: Path, *arguments: str | Path, **settings: str) -> str:
    """Submit shards, and return what Slurm was asked and what its jobs printed."""
    (tmp_path / "log").unlink(missing_ok=True)
    done = call(SLURM / "submit-shards.sh", *arguments, env=environment(programs, tmp_path, **settings))
    assert (done.returncode, done.stdout) == (0, "array 4711, then merge 4711\n"), done.stderr
    return (tmp_path / "log").read_text()


def test_shards_are_merged_and_a_missing_one_is_named_and_submitted_again(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    shards = tmp_path / "shared" / "shards"
    log = submit(programs, tmp_path, "2", shards, *OPTIONS, FAILING="1")
    assert "--array=0-1" in log
    assert "--dependency=afterany:4711\n" in log
    assert "run score with --shard 1/2" in log
    assert log.endswith("merge.sbatch ended with 2\n")
    log = submit(programs, tmp_path, "2", shards, *OPTIONS, TASKS="1")
    assert "--array=1\n" in log
    assert "shards.sbatch ended with 0\n" in log
    assert log.endswith("is complete\nmerge.sbatch ended with 0\n")
    with closing(Store(folder=tmp_path / "cache")) as store:
        assert stored(store) == RESULTS
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("tmp")] == [], "scratch folders of the tasks"


@pytest.mark.parametrize("arguments", [[], ["4"], ["none", "folder"], ["0", "folder"]])
def test_shards_without_a_number_and_a_folder_are_refused(programs: Path, tmp_path: Path, arguments: list[str]) -> None:
    refused = call(SLURM / "submit-shards.sh", *arguments, env=environment(programs, tmp_path), cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Submit a run as an array of shards")
    assert not (tmp_path / "folder").exists()


# Workers that share a database


def test_two_workers_of_compose_share_one_run(programs: Path, tmp_path: Path, server: str) -> None:
    worker = yaml.safe_load((DEPLOY / "compose.workers.yaml").read_text())["services"]["worker"]
    variable = "${ATTRLIB_SCORE:?set it to the options of attrlib score}"
    command = [DEPLOY / "start.sh", *worker["command"].replace(variable, " ".join([*OPTIONS, "--json"])).split()]
    (tmp_path / "password").write_text(f"{make_url(server).password}\n")
    settings = {"ATTRLIB_STORE_URL": re.sub(r":[^:@/]*@", "@", server), "ATTRLIB_STORE_PASSWORD_FILE": str(tmp_path / "password")}
    assert set(settings) <= set(worker["environment"])
    started = [
        subprocess.Popen(
            command, env=environment(programs, tmp_path, **settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(worker["deploy"]["replicas"])
    ]
    said = [process.communicate(timeout=LIMIT) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    results = [json.loads(out) for out, _ in said]
    assert results[0]["scores"][0]["values"] == results[1]["scores"][0]["values"]
    assert sum(result["computed"] for result in results) == RESULTS, "no item is computed twice"
    with closing(Store(server, tmp_path / "look")) as store:
        assert stored(store) == RESULTS
