"""The tables of a launch as a folder of Parquet files, one a table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tools.export.atomic import umask


def write_parquet(folder: Path, tables: Mapping[str, pa.Table]) -> list[Path]:
    """Write `<table>.parquet` for every table into `folder`, which is made if it doesn't exist.

    All files are written beside the folder first and moved at the end, so a failure leaves no part of them: a new folder
    appears as a whole; in one that exists the files are replaced one by one.

    Returns:
        The files, in the order of the tables.

    Raises:
        OSError: the folder can't be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, table in tables.items():
            pq.write_table(table, stage / f"{name}.parquet", compression="zstd")
        if not folder.exists():
            stage.chmod(0o777 & ~umask())
            stage.replace(folder)
            return [folder / f"{name}.parquet" for name in tables]
        written = []
        for name in tables:
            target = folder / f"{name}.parquet"
            (stage / f"{name}.parquet").replace(target)
            written.append(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return written
