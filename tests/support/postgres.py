"""A temporary PostgreSQL cluster."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from support.programs import unavailable


def postgres_programs() -> Path | None:
    folders = [Path(p).parent for p in [shutil.which("initdb")] if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[0] if folders else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database for tests: that of ATTRLIB_TEST_POSTGRES, or of a server that runs during the tests."""
    if find_spec("psycopg") is None:
        unavailable("no psycopg: pip install 'psycopg[binary]'")
    if url := os.environ.get("ATTRLIB_TEST_POSTGRES"):
        yield url
        return
    programs = postgres_programs()
    if programs is None:
        unavailable("no PostgreSQL server: apt-get install postgresql, or set ATTRLIB_TEST_POSTGRES to a URL")
    # PostgreSQL refuses to run as root, and its socket needs a short path.
    who: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        if who:
            shutil.chown(folder, "nobody")
        Path(folder, "password").write_text("hush-hush")
        data = ["-D", f"{folder}/data"]
        init = [programs / "initdb", *data, "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync"]
        begin = [programs / "pg_ctl", *data, "-w", "-o", f"-k {folder} -c listen_addresses='' -F", "-l", f"{folder}/log", "start"]
        for command in (init, begin):
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **who)
        try:
            yield f"postgresql://tester:hush-hush@/postgres?host={folder}"
        finally:
            subprocess.run(
                [programs / "pg_ctl", *data, "-m", "immediate", "stop"], cwd=folder, check=True, stdout=subprocess.DEVNULL, **who
            )


def run_sql(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.fixture
def server(postgres: str) -> str:
    """A PostgreSQL database without the store's tables."""
    run_sql(postgres, "DROP SCHEMA IF EXISTS attrlib CASCADE")
    return postgres
