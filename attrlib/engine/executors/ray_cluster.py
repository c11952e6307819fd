"""Start Ray on this machine, or connect to a cluster, and say in one line what went wrong."""

import importlib
import importlib.util
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from attrlib.errors import ClusterError, SpecError, reason_of
from attrlib.places import import_folder

NAME = "ray"
AUTO = "auto"
LONGEST = 40
"""Maximum length of the folder below which Ray creates its sockets, whose paths may have 107 bytes."""
SECONDS = 10.0
"""Seconds within which a cluster must answer."""
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The first frame that each side of HTTP/2 sends, which gRPC and so Ray speaks, without any setting; RFC 9113, section 3.4."""
TYPE = slice(3, 4)
"""Where a frame says what it is."""


def parse_cluster(text: str) -> str | None:
    """Return the address in `ray`, `ray://ADDRESS` or `ray://auto`; None for `ray`, which starts Ray on this machine.

    Raises:
        SpecError: If the text has another form.
    """
    name, mark, address = text.strip().partition("://")
    if name != NAME or bool(mark) != bool(address) or (mark and address != AUTO and not _host_and_port(address)):
        raise SpecError(
            f"cluster={text[:80]!r} is not valid: write ray to start Ray on this machine, ray://HOST:PORT for a cluster that runs, or "
            "ray://auto for the cluster that this machine belongs to"
        )
    return address or None


def check_installed() -> None:
    """Raise `ClusterError` if Ray is not installed."""
    if importlib.util.find_spec(NAME) is None:
        raise ClusterError('clusters need Ray, which is not installed: pip install "attrlib[cluster]"')


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and int(port) < 1 << 16 else None


def cores() -> int:
    """Return the number of CPU cores that were granted to this process, which may be fewer than the machine has."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(granted, int(os.environ.get("SLURM_CPUS_PER_TASK", granted)))


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a Ray cluster inside the context, or start Ray on this machine and end it with the context.

    A connection that exists already is used, and left as it is.

    Args:
        address: HOST:PORT, `auto`, or None to start Ray here. It then listens on the loopback interface only.

    Yields:
        The module `ray`.

    Raises:
        ClusterError: If Ray is not installed, the cluster does not answer, or it has another version.
    """
    check_installed()
    if NAME in sys.modules and sys.modules[NAME].is_initialized():
        yield sys.modules[NAME]
        return
    if address is not None and address != AUTO:
        _check_answers(address)
    settings: AbstractContextManager[dict[str, Any]] = _local_settings() if address is None else nullcontext({})
    with settings as options:
        import ray

        _init(ray, address, options)
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise `ClusterError` if no Ray answers at an address. Ray itself would wait for it for minutes, and then end the process."""
    try:
        with socket.create_connection(_host_and_port(address) or ("", 0), SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
            is_ray = connection.recv(len(SETTINGS))[TYPE] == SETTINGS[TYPE]
    except OSError as error:
        raise ClusterError(
            f"no cluster answers at {address} ({error.strerror or error}); start one with ray start --head, or check host, port and firewall"
        ) from None
    if not is_ray:
        raise ClusterError(f"what answers at {address} is not Ray; give the port of ray start --head, by default 6379")


def _init(ray: Any, address: str | None, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, SystemExit) as error:
        reason = reason_of(error, 300)
        if "ersion mismatch" in str(error):
            raise ClusterError(
                f"the cluster has other versions than this process ({reason}); install the same Python and Ray here and on all nodes"
            ) from None
        if address is None:
            raise ClusterError(f"Ray does not start on this machine: {reason}; see its log in {options['_temp_dir']}") from None
        where = "this machine belongs to no cluster" if address == AUTO else f"the cluster at {address} cannot be joined"
        raise ClusterError(
            f"{where}: {reason}; run the command on a machine of the cluster, on which ray start was called by the same user"
        ) from None


@contextmanager
def _local_settings() -> Iterator[dict[str, Any]]:
    """Return the options of a Ray for this process only: loopback interface, a token of its own, a short temporary folder."""
    folder = _short_folder()
    environment = {
        # Without clusters, the servers listen on 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        # Else Ray writes a token into the home folder.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([str(import_folder()), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        _reread_settings()
        yield {"num_cpus": cores(), "include_dashboard": False, "_temp_dir": str(folder)}
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _reread_settings()
        shutil.rmtree(folder, ignore_errors=True)


def _reread_settings() -> None:
    """Let Ray read the environment again, which it does only once in a process, on import or at its first start."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    )
    # Older versions have no tokens.
    with suppress(AttributeError):
        core = importlib.import_module("ray._raylet")
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def _short_folder() -> Path:
    """Return a new folder for Ray's files, with a path that leaves room for the names of its sockets."""
    for place in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"):
        if place and len(os.fsencode(place)) <= LONGEST - len("/attrlib-12345678") and os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="attrlib-", dir=place))
    raise ClusterError(
        f"the temporary folder {tempfile.gettempdir()} has a path too long for Ray's sockets; set RAY_TMPDIR to a writable folder with a "
        "path of at most 20 characters"
    )
