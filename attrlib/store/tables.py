"""Database tables of the results, on any database, and of the index of maps, in SQLite next to the maps."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Double, Index, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import UserDefinedType

SCHEMA = 1
"""Version of the tables. Increased when they change, so that rows of another version are not misread."""

CHUNK = 500
"""Most values in an IN list, whose length databases limit."""


class _Untyped(UserDefinedType[float]):
    """A float column without numeric affinity. In SQLite only such columns keep every bit; in others -0.0 becomes 0.0."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


def _about(tables: MetaData) -> Table:
    return Table("about", tables, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))


results = MetaData()
_about(results)
specs = Table("specs", results, Column("key", Text, primary_key=True), Column("spec", Text, nullable=False))
records = Table(
    "records",
    results,
    Column("key", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("value", Double().with_variant(_Untyped(), "sqlite")),
    Column("details", Text),
    sqlite_with_rowid=False,
)
# A server reads the values of a run from the index alone: of 32 million rows, the means of 2 million in 0.2 s instead of 2.6 s. In SQLite
# the rows themselves are in the order of the keys.
Index("records_values", records.c.key, postgresql_include=["value"]).ddl_if(dialect="postgresql")
runs = Table(
    "runs",
    results,
    Column("key", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("parts", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
)
claims = Table(
    "claims",
    results,
    Column("key", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("expires", Double, nullable=False),
    sqlite_with_rowid=False,
)

index = MetaData()
_about(index)
maps = Table(
    "maps",
    index,
    Column("key", Text, primary_key=True),
    Column("content", Text, nullable=False, index=True),
    Column("nbytes", BigInteger, nullable=False),
    Column("used", Double, nullable=False),
)

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def inserts(connection: Connection) -> Any:
    """Return the function that makes an INSERT with a conflict clause for the database."""
    return _INSERTS[connection.dialect.name]


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert the rows whose primary key does not exist yet."""
    if rows:
        connection.execute(inserts(connection)(table).on_conflict_do_nothing(), rows)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]], keep: Collection[str]) -> None:
    """Insert rows, overwriting those whose primary key exists.

    Args:
        connection: Connection with an open transaction.
        table: The table to write.
        rows: Values by column.
        keep: Columns that are not overwritten.
    """
    if rows:
        insert = inserts(connection)(table)
        changed = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key and c.name not in keep}
        connection.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed), rows)


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """Split values into lists that fit into one statement."""
    rest = list(values)
    return (rest[i : i + CHUNK] for i in range(0, len(rest), CHUNK))
