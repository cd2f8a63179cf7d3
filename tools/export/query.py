"""SQL over the tables of a launch: one reading statement, no files, no network, bounded time and memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

SECONDS = 30.0
MEMORY = "1GB"
MOST_ROWS = 100_000
"""Rows of an answer; more are an error, never cut silently."""

_LOCKS = (
    "SET enable_external_access = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
    f"SET memory_limit = '{MEMORY}'",
    "SET threads = 1",
    "SET lock_configuration = true",
)


class QueryError(ValueError):
    """The query can't be answered; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: column names and rows of plain values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One object a row."""
        return [dict(zip(self.columns, row)) for row in self.rows]


def query(tables: Mapping[str, pa.Table], sql: str, *, seconds: float = SECONDS) -> Result:
    """Answer one SELECT over `tables`.

    Args:
        tables: Arrow tables by name.
        sql: one statement in DuckDB's dialect.
        seconds: time limit.

    Raises:
        QueryError: it isn't one reading statement, it is wrong, it reaches for files, or it takes too long.
    """
    known = ", ".join(tables)
    connection = duckdb.connect(":memory:")
    try:
        statement = _statement(connection, sql)
        for name, table in tables.items():
            connection.register("incoming", table)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')
            connection.unregister("incoming")
        for lock in _LOCKS:
            connection.execute(lock)
        connection.execute("BEGIN TRANSACTION READ ONLY")
        return _answer(connection, statement, seconds)
    except duckdb.CatalogException as error:
        said = _first(error).rstrip("!")
        raise QueryError(f"{said}; the tables are {known}" if said.startswith("Table") else said) from error
    except duckdb.PermissionException as error:
        raise QueryError(f"a query reads the profile's tables and no file: {_first(error)}") from error
    except (duckdb.InvalidInputException, duckdb.TransactionException) as error:
        raise QueryError(f"the query may only read the profile's tables ({known}): {_first(error)}") from error
    except duckdb.InterruptException as error:
        raise QueryError(f"the query took longer than {seconds:g} s; add a WHERE or a LIMIT") from error
    except duckdb.OutOfMemoryException as error:
        raise QueryError(f"the query needs more than {MEMORY} of memory; add a WHERE or a LIMIT") from error
    except duckdb.Error as error:
        raise QueryError(f"the SQL is wrong: {_first(error)}") from error
    finally:
        connection.close()


def _statement(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one reading statement that `sql` is."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"the query holds {len(statements)} statements; give one SELECT")
    if statements[0].type is not duckdb.StatementType.SELECT:
        kind = statements[0].type.name.lower()
        raise QueryError(
            f"only SELECT is allowed and this is {kind}: the tables can't be changed and no file is opened"
        )
    return statements[0]


def _answer(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, seconds: float) -> Result:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        cursor = connection.execute(statement)
        rows = cursor.fetchmany(MOST_ROWS + 1)
        columns = tuple(str(d[0]) for d in cursor.description or ())
    finally:
        timer.cancel()
    if len(rows) > MOST_ROWS:
        raise QueryError(f"the answer has more than {MOST_ROWS} rows; add a LIMIT or aggregate")
    return Result(columns, tuple(tuple(row) for row in rows))


def _first(error: Exception) -> str:
    """The first line of DuckDB's message, without its category."""
    text = str(error).strip().splitlines()[0]
    _, _, rest = text.partition("Error: ")
    return (rest or text).rstrip(". ")
