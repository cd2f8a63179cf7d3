"""A timed launch as tables: Parquet with Neuron Explorer's names, SQL over them, files written whole or not at all."""

from tools.export.atomic import write_bytes, write_text
from tools.export.parquet import write_parquet
from tools.export.perfetto import to_perfetto, write_perfetto
from tools.export.query import QueryError, Result, query
from tools.export.tables import SCHEMA_VERSION, tables

__all__ = [
    "SCHEMA_VERSION",
    "QueryError",
    "Result",
    "query",
    "tables",
    "to_perfetto",
    "write_bytes",
    "write_parquet",
    "write_perfetto",
    "write_text",
]
