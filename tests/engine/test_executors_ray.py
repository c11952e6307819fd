"""Ray: a cluster of three nodes, one of which goes away or lacks the data, and clusters that cannot be used."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import ray
from ray.cluster_utils import Cluster
from support.drivers import check_resumed, kill_driver
from support.executors import KILLS, MODEL, actor_processes, copied_birds, executed, on
from support.gate import Gate, methods_of_tests
from support.runs import same
from support.waiting import LIMIT, until

import attrlib.engine.evaluations
import attrlib.engine.plan
from attrlib.engine.executors import ray_cluster
from attrlib.engine.executors.choice import executors
from attrlib.engine.executors.ray_cluster import LONGEST, connected, parse_cluster
from attrlib.engine.executors.ray_crew import RayCrew
from attrlib.engine.executors.worker_spec import ROOTS
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event
from attrlib.errors import ClusterError, SpecError
from attrlib.specs import ModelSpec, RunSpec, parse_methods, parse_protocols

METHODS = "IxG,IG:steps=6,Random,Gradient"


@pytest.fixture(scope="module", autouse=True)
def _small_units() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attrlib.engine.evaluations, "BATCH_SIZE", 4)
        patch.setattr(attrlib.engine.plan, "BATCH_SIZE", 4)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def gate(folder: Path) -> Iterator[Gate]:
    with methods_of_tests(folder / "gate") as gate:
        yield gate


@pytest.fixture(scope="module")
def cluster(folder: Path, gate: Gate) -> Iterator[Cluster]:
    """Three nodes with one CPU each, one of which has the data below a root of its own; their workers have the methods of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # Ray writes a token there
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1, env_vars={ROOTS: str(folder / "elsewhere")})
        cluster.add_node(num_cpus=1)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return copied_birds(folder / "birds", range(32))


@pytest.fixture(scope="module")
def spec(data: Path) -> RunSpec:
    return RunSpec(ModelSpec(MODEL), str(data), parse_protocols("sds,sds:target=prediction"), parse_methods(METHODS))


@pytest.fixture(scope="module")
def undisturbed(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return executed(spec, tmp_path_factory.mktemp("undisturbed"))


def test_nodes_without_the_data_are_refused_and_the_others_go_on(
    cluster: Cluster, folder: Path, data: Path, spec: RunSpec, undisturbed: RunResult, tmp_path: Path
) -> None:
    def on_progress(event: Event) -> None:
        if event.doing == "starting workers" and data.exists():
            (folder / "elsewhere").mkdir()
            data.rename(folder / "elsewhere" / "birds")

    try:
        with closing(RayCrew(f"ray://{cluster.address}", 3)) as crew:
            result = executed(spec, tmp_path, on(crew), on_progress)
    finally:
        (folder / "elsewhere" / "birds").rename(data)
    assert same(result, undisturbed)
    refused = [note for note in result.notes if "was refused" in note]
    assert len(refused) == 2
    assert all(f"it has no data at {data}" in note and note.endswith("the run went on without it") for note in refused)


@pytest.mark.parametrize("attempt", range(KILLS))
def test_a_driver_that_is_killed_takes_its_actors_along_and_resumes(attempt: int, cluster: Cluster, gate: Gate, tmp_path: Path) -> None:
    few, calls = copied_birds(tmp_path / "data", range(20)), 5 + attempt % 12
    gate.close()
    until(lambda: not actor_processes(), lambda: "the actors of another test have ended")
    options = ["--cluster", f"ray://{cluster.address}", "--workers", "2"]
    kill_driver(options, few, tmp_path / "killed", gate, calls, lambda _pid: actor_processes())
    gate.open()
    check_resumed(few, tmp_path / "killed", calls)


def test_a_node_that_goes_away_is_done_without(cluster: Cluster, spec: RunSpec, undisturbed: RunResult, tmp_path: Path) -> None:
    nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)

    def on_progress(event: Event) -> None:
        if nodes and event.workers == 2 and event.done:
            busy = {actor["NodeID"] for actor in _actors()}
            node = next((node for node in nodes if node.node_id in busy), None)
            if node is not None:
                nodes.clear()
                cluster.remove_node(node, allow_graceful=False)

    with closing(RayCrew(f"ray://{cluster.address}", 2)) as crew:
        result = executed(spec, tmp_path, on(crew), on_progress)
    assert not nodes, "the run was over before a node went away"
    assert same(result, undisturbed)
    reasons = ("its node has left the cluster", "it could not be reached any more")
    assert any(note == f"1 worker(s) died and were replaced: {reason}" for note in result.notes for reason in reasons), result.notes


def _actors() -> list[dict[str, str]]:
    """Return the node of each living actor."""
    states = ray._private.state.actors().values()
    return [{"NodeID": each["Address"]["NodeID"]} for each in states if each["State"] == "ALIVE"]


def test_a_cluster_with_too_few_resources_is_named(cluster: Cluster) -> None:
    with pytest.raises(
        ClusterError, match=r"the cluster has \d CPUs and 0 GPUs, too few for 9 workers with 1 CPUs each; ask for at most \d"
    ):
        RayCrew(f"ray://{cluster.address}", 9)
    with pytest.raises(ClusterError, match="the cluster has no GPUs; use --device auto or cpu"):
        RayCrew(f"ray://{cluster.address}", 1, "cuda")


# Clusters that cannot be used


@pytest.fixture
def _no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("text", ["slurm", "ray:", "ray://", "ray://host", "ray://host:port", "ray://host:99999", "raye", ""])
def test_other_clusters_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not valid: write ray to start Ray on this machine"):
        parse_cluster(text)


def test_addresses_are_read() -> None:
    assert [parse_cluster(text) for text in ("ray", "ray://auto", "ray://head:6379", "ray://[::1]:6379")] == [
        None,
        "auto",
        "head:6379",
        "[::1]:6379",
    ]


@pytest.mark.usefixtures("_no_connection")
def test_an_address_that_does_not_answer_is_named_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=f"no cluster answers at {address} .*ray start --head"),
            executors(cluster=f"ray://{address}"),
        ):
            pass


@pytest.mark.parametrize(
    ("answer", "message"), [(b"", r"no cluster answers at .*timed out"), (b"HTTP/1.1 400 Bad Request", r"what answers at .* is not Ray")]
)
def test_an_address_at_which_something_else_listens_is_named(answer: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the dashboard, or a firewall that answers for all ports; Ray would wait for minutes."""
    monkeypatch.setattr(ray_cluster, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            held.append(server.accept()[0])
            held[0].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ClusterError, match=message):
            ray_cluster._check_answers(f"127.0.0.1:{server.getsockname()[1]}")


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r'pip install "attrlib\[cluster\]"'), connected(None):
        pass


@pytest.mark.usefixtures("_no_connection")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Version mismatch: The cluster was started with:\n Ray: 2.50"), "the cluster has other versions than this process"),
        (ConnectionError("Could not find any running Ray instance."), "this machine belongs to no cluster: Could not find"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ClusterError, match=message), connected("auto"):
        pass


@pytest.mark.usefixtures("_no_connection")
def test_ray_on_this_machine_listens_to_it_alone_and_writes_nothing_into_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def init(**options: object) -> None:
        seen.update(options, environment=dict(os.environ))

    monkeypatch.setattr(ray, "init", init)
    before = dict(os.environ)
    with connected(None) as module:
        assert isinstance(module, ModuleType)
        environment = seen["environment"]
        assert isinstance(environment, dict)
        assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert len(environment["RAY_AUTH_TOKEN"]) == 64
        assert seen["num_cpus"] == len(os.sched_getaffinity(0))
        temporary = Path(str(seen["_temp_dir"]))
        assert temporary.is_dir()
        assert len(str(temporary)) <= LONGEST
    assert dict(os.environ) == before
    assert not temporary.exists()


def test_ray_can_be_started_again_in_a_process_and_listens_to_this_machine_alone() -> None:
    """As in the app, which starts it for each run, and in a program that has imported Ray before."""
    script = """
import ray
import psutil
from attrlib.engine.executors.ray_crew import RayCrew
for _ in range(2):
    crew = RayCrew("ray", 1, "cpu")
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    print({c.laddr.ip for each in processes for c in each.net_connections() if c.status == psutil.CONN_LISTEN} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"})
    crew.close()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


def test_a_temporary_folder_with_a_long_path_is_avoided_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = ray_cluster._short_folder()
    assert folder.parent == Path("/tmp")
    folder.rmdir()
    monkeypatch.setattr(ray_cluster, "os", SimpleNamespace(**{**vars(os), "access": lambda *_: False}))
    with pytest.raises(ClusterError, match="has a path too long for Ray's sockets; set RAY_TMPDIR"):
        ray_cluster._short_folder()


def test_cores_are_those_that_were_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert ray_cluster.cores() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert ray_cluster.cores() == 1


def test_ray_is_imported_only_when_it_is_used() -> None:
    assert "ray" in sys.modules
    source = (Path(attrlib.__file__).parent / "engine" / "executors" / "ray_crew.py").read_text()
    assert not [line for line in source.splitlines() if line.startswith(("import ray", "from ray"))]
