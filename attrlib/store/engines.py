"""Connections to databases, and creation of their tables at first use."""

import time
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateSchema

from attrlib.store.failures import Refused, is_lock
from attrlib.store.tables import SCHEMA

TIMEOUT = 30.0
"""Seconds to wait for a lock held by another program."""

NAMESPACE = "attrlib"
"""Name of the PostgreSQL schema, which avoids conflicts with the tables of other programs in the same database."""

_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
_MAKING = 0x617474726C6962
"""Number of the PostgreSQL advisory lock that is held while tables are created."""


class OtherSchema(Exception):
    """The tables have another version, which is given in the message."""


def server_engine(url: URL) -> Engine:
    """Create an engine for a PostgreSQL server.

    Raises:
        Refused: If the driver is not installed.
    """
    driver = url.get_driver_name()
    if driver in _PACKAGES and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": "10"})
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except ImportError:
        raise Refused(f"a PostgreSQL store needs the Python package {driver}: pip install '{_PACKAGES.get(driver, driver)}'") from None
    return engine.execution_options(schema_translate_map={None: NAMESPACE})


def file_engine(file: Path, mode: str = "") -> Engine:
    """Create an engine for an SQLite file.

    Args:
        file: Path of the file.
        mode: A URI parameter, for example `immutable=1`, or empty.
    """
    name, _, value = mode.partition("=")
    url = URL.create("sqlite", database=str(file))
    if mode:
        url = URL.create("sqlite", database=file.as_uri(), query={name: value, "uri": "true"})
    # No limit on connections: each only opens the file, so no thread has to wait for the connection of another.
    engine = create_engine(url, connect_args={"timeout": TIMEOUT}, max_overflow=-1, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        # By default the driver begins transactions too late for reads, and with too weak a lock for writes.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("write"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def prepare(engine: Engine, tables: MetaData, place: str, writable: bool) -> None:
    """Create the tables that do not exist.

    Args:
        engine: Engine of the database.
        tables: The tables.
        place: Name of the database in error messages.
        writable: Whether tables may be added to those that exist.

    Raises:
        OtherSchema: If the tables have another version.
        Refused: If they belong to another program.
    """
    with engine.connect() as connection:
        version = _version(connection, tables, place)
        present = _names(connection)
    if version is None or (writable and version == str(SCHEMA) and not tables.tables.keys() <= set(present)):
        version = _create(engine, tables, place)
    if version != str(SCHEMA):
        raise OtherSchema(version)


def _create(engine: Engine, tables: MetaData, place: str) -> str:
    server = engine.dialect.name == "postgresql"
    if not server:
        _log_ahead(engine)
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        if server:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MAKING})
            if not inspect(connection).has_schema(NAMESPACE):
                connection.execute(CreateSchema(NAMESPACE))
        # Another process may have created them in the meantime.
        version = _version(connection, tables, place)
        # A table that a later version of attrlib has added does not change the meaning of the others.
        tables.create_all(connection)
        if version is None:
            version = str(SCHEMA)
            connection.execute(tables.tables["about"].insert(), {"name": "schema", "value": version})
    return version


def _names(connection: Connection) -> list[str]:
    return inspect(connection).get_table_names(schema=NAMESPACE if connection.dialect.name == "postgresql" else None)


def _version(connection: Connection, tables: MetaData, place: str) -> str | None:
    names = _names(connection)
    if names and "about" not in names:
        raise Refused(f"{place} belongs to another program (it has a table {names[0]!r}); set ATTRLIB_STORE_URL to another database")
    about = tables.tables["about"]
    return str(connection.execute(about.select().where(about.c.name == "schema")).scalars(1).first()) if names else None


def _log_ahead(engine: Engine) -> None:
    """Enable write-ahead logging, so that readers need not wait for writers. Retry here, as SQLite does not wait for the lock."""
    deadline = time.monotonic() + TIMEOUT
    with engine.connect() as connection:
        while True:
            try:
                connection.execute(text("PRAGMA journal_mode=WAL"))
                return
            except OperationalError as error:
                if not is_lock(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
