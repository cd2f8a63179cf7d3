from pathlib import Path

import pyarrow as pa
import pytest

from tools.export import QueryError, Result, query

TABLES = {
    "Summary": pa.table({"total_time": [1.5]}),
    "Instruction": pa.table({"id": list(range(500)), "engine": ["tensor"] * 500}),
}


def test_one_select_is_answered() -> None:
    found = query(TABLES, "SELECT engine, count(*) AS n FROM Instruction GROUP BY engine")
    assert found == Result(("engine", "n"), (("tensor", 500),))
    assert found.to_json() == [{"engine": "tensor", "n": 500}]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT nope FROM Summary", "nope"),
        ("SELEC 1", "the SQL is wrong"),
        ("", "0 statements"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT * FROM Nowhere", "the tables are Summary, Instruction"),
        ("SELECT * FROM Instruction a, Instruction b", "more than 100000 rows"),
    ],
)
def test_wrong_sql_is_one_clear_sentence(sql: str, words: str) -> None:
    with pytest.raises(QueryError, match=words) as error:
        query(TABLES, sql)
    assert "\n" not in str(error.value)


WRITES = [
    "COPY Summary TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "ATTACH '{out}'",
    "CREATE TABLE x AS SELECT 1",
    "INSERT INTO Summary SELECT * FROM Summary",
    "DELETE FROM Summary",
    "UPDATE Summary SET total_time = 0",
    "DROP TABLE Summary",
    "WITH x AS (DELETE FROM Summary RETURNING 1) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY Summary TO '{out}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA enable_external_access",
    "CALL pragma_version()",
]


@pytest.mark.parametrize("sql", WRITES)
def test_nothing_can_be_written_or_set(sql: str, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="only"):
        query(TABLES, sql.format(out=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_parquet('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('{file}*')",
        "SELECT * FROM TABLES",
        "SELECT getenv('HOME')",
    ],
)
def test_no_file_variable_or_python_object_can_be_read(sql: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,swordfish\n")
    with pytest.raises(QueryError) as error:
        query(TABLES, sql.format(file=secret))
    assert "swordfish" not in str(error.value)


def test_an_endless_query_is_stopped() -> None:
    endless = "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"
    with pytest.raises(QueryError, match="longer than"):
        query(TABLES, endless, seconds=0.5)


def test_each_query_sees_fresh_tables() -> None:
    with pytest.raises(QueryError):
        query(TABLES, "DELETE FROM Summary")
    assert query(TABLES, "SELECT total_time FROM Summary").rows == ((1.5,),)
