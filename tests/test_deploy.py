"""The scripts of deploy/: what they pass on, and what they refuse."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support.waiting import LIMIT

DEPLOY = Path(__file__).parent.parent / "deploy"
RECORDER = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}))
"""
"""Stands in for a program, and prints how it is called."""


def run(script: str, *arguments: str | Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ATTRLIB_", "OMP_", "PG", "STREAMLIT_"))}
    settings = clean | {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        ["bash", DEPLOY / script, *arguments],
        env=settings,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path of programs on which `attrlib` prints how it is called."""
    program = tmp_path / "bin" / "attrlib"
    program.parent.mkdir()
    program.write_text(RECORDER)
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def start(path: str, cache: Path, *arguments: str, **environment: str | Path) -> tuple[list[str], Mapping[str, str]]:
    settings = {"PATH": path, "ATTRLIB_CACHE": cache, "ATTRLIB_CPU_MAX": cache / "absent"} | environment
    started = run("start.sh", *arguments, **settings)
    assert started.returncode == 0, started.stderr
    said = json.loads(started.stdout)
    return said["arguments"], said["environment"]


# start.sh


def test_the_app_listens_on_all_addresses_by_default(path: str, tmp_path: Path) -> None:
    arguments, environment = start(path, tmp_path / "cache")
    assert arguments == ["app", "--host", "0.0.0.0", "--port", "8501", "--max-upload", "20"]
    assert environment["ATTRLIB_DATA_ROOTS"] == "/data"
    assert environment["STREAMLIT_SERVER_HEADLESS"] == "true"
    assert environment["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] == "false"
    assert not {"PGPASSWORD", "OMP_NUM_THREADS", "ATTRLIB_STORE_URL"} & set(environment)
    assert list((tmp_path / "cache").iterdir()) == []


def test_settings_and_further_arguments_are_passed_on(path: str, tmp_path: Path) -> None:
    settings = {
        "ATTRLIB_HOST": "10.0.0.5",
        "ATTRLIB_PORT": "80",
        "ATTRLIB_DATA_ROOTS": "",
        "OMP_NUM_THREADS": "3",
        "ATTRLIB_MAX_UPLOAD": "300",
    }
    arguments, environment = start(path, tmp_path, "--data-root", "/more data", **settings)
    assert arguments == ["app", "--host", "10.0.0.5", "--port", "80", "--max-upload", "300", "--data-root", "/more data"]
    assert environment["ATTRLIB_DATA_ROOTS"] == ""
    assert environment["OMP_NUM_THREADS"] == "3"


def test_another_command_runs_with_the_same_settings(path: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    arguments, environment = start(path, tmp_path, "score", "--data", "birds", ATTRLIB_STORE_PASSWORD_FILE=tmp_path / "password")
    assert arguments == ["score", "--data", "birds"]
    assert environment["PGPASSWORD"] == "secret"


def test_the_password_of_the_database_comes_from_a_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("it's $HOME & more\n")
    arguments, environment = start(path, tmp_path, ATTRLIB_STORE_PASSWORD_FILE=tmp_path / "password")
    assert environment["PGPASSWORD"] == "it's $HOME & more"
    assert "more" not in " ".join(arguments)
    missing = run("start.sh", PATH=path, ATTRLIB_CACHE=tmp_path, ATTRLIB_STORE_PASSWORD_FILE=tmp_path / "absent")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "cannot read ATTRLIB_STORE_PASSWORD_FILE" in missing.stderr


@pytest.mark.parametrize(
    ("limit", "threads"), [("max 100000", None), ("150000 100000", "2"), ("400000 100000", "4"), ("50000 100000", "1")]
)
def test_threads_follow_the_cpu_limit_of_the_container(path: str, tmp_path: Path, limit: str, threads: str | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert start(path, tmp_path, ATTRLIB_CPU_MAX=tmp_path / "cpu.max")[1].get("OMP_NUM_THREADS") == threads


def test_the_cache_is_home_where_there_is_no_other(path: str, tmp_path: Path) -> None:
    assert start(path, tmp_path, HOME="/nonexistent")[1]["HOME"] == str(tmp_path)
    assert start(path, tmp_path, HOME=tmp_path / "bin")[1]["HOME"] == str(tmp_path / "bin")


def test_a_cache_that_cannot_be_written_is_named(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    started = run("start.sh", PATH=path, ATTRLIB_CACHE=tmp_path / "file")
    assert (started.returncode, started.stdout) == (1, "")
    assert f"ATTRLIB_CACHE={tmp_path / 'file'}" in started.stderr


# health.sh


def test_health_asks_the_app(tmp_path: Path) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = {"ATTRLIB_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
    try:
        answers = [run("health.sh", **settings).returncode for _ in range(2)]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert answers == [0, 1]
    assert asked == ["/_stcore/health"] * 2
    silent = run("health.sh", **settings)
    assert silent.returncode == 1
    assert "Traceback" not in silent.stderr


# install.sh


FAKE_PYTHON = """#!/usr/bin/env bash
# Stands in for Python: makes an environment whose Python is this file, and prints how pip is called.
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; fi
[ "$1" = - ] && exec cat >/dev/null
for word in "$@"; do
    echo "$word"
    [ "$before" = --constraint ] && sed 's/^/pin /' "$word"
    before=$word
done
exit 0
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    program = tmp_path / "python"
    program.write_text(FAKE_PYTHON)
    program.chmod(0o755)
    return program


def install(python: Path, folder: Path, *source: str | Path, **environment: str | Path) -> list[str]:
    installed = run("install.sh", *source, folder, PYTHON=python, **environment)
    assert installed.returncode == 0, installed.stderr
    return installed.stdout.splitlines()


def test_a_wheel_is_installed_with_the_cpu_build_of_pytorch(python: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "attrlib-0.2.0-py3-none-any.whl"
    wheel.touch()
    called = install(python, tmp_path / "env", wheel)
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert called == ["-m", "pip", "install", "--disable-pip-version-check", *index, f"{wheel}[app,postgres]", "-m", "pip", "check"]


def test_a_version_is_installed_with_cuda_and_pinned_pytorch(python: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# pair\ntorch==2.13.0\ntorchvision==0.28.0\ntorchmetrics==1.0\ntimm>=1\n")
    called = install(
        python, tmp_path / "env", "0.2.0", ATTRLIB_DEVICE="cuda", ATTRLIB_PINS=tmp_path / "requirements.txt", ATTRLIB_EXTRAS="app"
    )
    assert "--extra-index-url" not in called
    assert [word for word in called if word.startswith("pin ")] == ["pin torch==2.13.0", "pin torchvision==0.28.0"]
    assert "attrlib[app]==0.2.0" in called


def test_a_checkout_is_installed_without_extras_and_from_another_index(python: Path, tmp_path: Path) -> None:
    called = install(python, tmp_path / "env", DEPLOY.parent, ATTRLIB_EXTRAS="", ATTRLIB_TORCH_INDEX="https://wheels.example")
    assert called[4:7] == ["--extra-index-url", "https://wheels.example", str(DEPLOY.parent)]


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ([], {}, "Usage: install.sh SOURCE"),
        (["absent.whl"], {}, "absent.whl is neither a file"),
        (["0.2.0"], {"ATTRLIB_DEVICE": "gpu"}, "use cpu or cuda"),
    ],
)
def test_what_cannot_be_installed_is_refused(tmp_path: Path, arguments: list[str], environment: dict[str, str], says: str) -> None:
    folder = [str(tmp_path / "env")] if arguments else []
    refused = run("install.sh", *arguments, *folder, **environment)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not (tmp_path / "env").exists()
