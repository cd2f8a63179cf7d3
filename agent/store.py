"""Where runs live: one SQLite file for runs, events and judged candidates. Survives kill -9 at any moment.

Graph checkpoints are LangGraph's own, in a second file beside it. A run is owned by the process that holds its lock
file; the lock vanishes with the process, so an interrupted run can be told from a running one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agent.events import EVENT, Event
from agent.state import Candidate, RunRequest, Used
from tools.task import Frozen

Status = Literal["queued", "running", "interrupted", "done", "refused", "failed"]

_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, created REAL NOT NULL, parent TEXT, status TEXT NOT NULL,
    request TEXT NOT NULL, used TEXT NOT NULL, message TEXT NOT NULL, cancel INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS events (
    run_id TEXT NOT NULL, seq INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (run_id, seq));
CREATE TABLE IF NOT EXISTS candidates (
    run_id TEXT NOT NULL, number INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (run_id, number));
"""


class RunNotFound(Exception):
    """No run of that id is stored."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}; `kernelwright runs` lists them")


class RunBusy(Exception):
    """Another process works on the run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is being worked on by another process; cancel it there first")


class UnreadableRun(Exception):
    """What is stored was written by a version with other types."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was stored by another version of Kernelwright and can't be read by this one")


class RunRow(Frozen):
    """What is known about a run without its checkpoint."""

    run_id: str
    created: float
    """Seconds since the epoch."""
    parent: str | None
    status: Status
    request: RunRequest
    used: Used
    message: str
    cancel: bool


class Store:
    """The runs of one data directory. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / "locks"
        self._locks.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / "runs.sqlite", check_same_thread=False, timeout=30.0)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @property
    def checkpoints(self) -> Path:
        """File of LangGraph's checkpoints."""
        return self.folder / "checkpoints.sqlite"

    def create(self, request: RunRequest, parent: str | None = None) -> str:
        """Store a new run and return its id, e.g. `1122-4f9a1c`."""
        run_id = f"{time.strftime('%m%d')}-{secrets.token_hex(3)}"
        with self._write() as db:
            db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, 'queued', ?, ?, '', 0)",
                (run_id, time.time(), parent, request.model_dump_json(), Used().model_dump_json()),
            )
        return run_id

    def row(self, run_id: str) -> RunRow:
        """One run.

        Raises:
            RunNotFound: no such run.
            UnreadableRun: it was stored by another version.
        """
        with self._lock:
            found = self._db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if found is None:
            raise RunNotFound(run_id)
        return self._row(found)

    def rows(self, limit: int = 50) -> list[RunRow]:
        """The newest runs, newest first."""
        with self._lock:
            found = self._db.execute("SELECT * FROM runs ORDER BY created DESC LIMIT ?", (limit,)).fetchall()
        readable = []
        for row in found:
            # One old run must not hide the others.
            with suppress(UnreadableRun):
                readable.append(self._row(row))
        return readable

    def _row(self, row: tuple[str, float, str | None, Status, str, str, str, int]) -> RunRow:
        run_id, created, parent, status, request, used, message, cancel = row
        if status in ("running", "queued") and not self._owned(run_id):
            status = "interrupted"
        try:
            return RunRow(
                run_id=run_id,
                created=created,
                parent=parent,
                status=status,
                request=RunRequest.model_validate_json(request),
                used=Used.model_validate_json(used),
                message=message,
                cancel=bool(cancel),
            )
        except ValidationError as error:
            raise UnreadableRun(run_id) from error

    def set_status(self, run_id: str, status: Status, message: str = "") -> None:
        """Record how a run stands."""
        with self._write() as db:
            db.execute("UPDATE runs SET status = ?, message = ? WHERE run_id = ?", (status, message, run_id))

    def set_request(self, run_id: str, request: RunRequest) -> None:
        """Record a changed request (a resumed run with more budget)."""
        with self._write() as db:
            db.execute("UPDATE runs SET request = ? WHERE run_id = ?", (request.model_dump_json(), run_id))

    def set_cancel(self, run_id: str, cancel: bool) -> None:
        """Ask the owner of a run to stop, whatever process it is, or take that back."""
        with self._write() as db:
            db.execute("UPDATE runs SET cancel = ? WHERE run_id = ?", (int(cancel), run_id))

    def add_event(self, event: Event, used: Used) -> Event:
        """Append an event and what the run has spent; returns the event with its number."""
        with self._write() as db:
            (last,) = db.execute(
                "SELECT COALESCE(MAX(seq), 0) FROM events WHERE run_id = ?", (event.run_id,)
            ).fetchone()
            numbered = event.model_copy(update={"seq": last + 1})
            db.execute("INSERT INTO events VALUES (?, ?, ?)", (event.run_id, last + 1, numbered.model_dump_json()))
            db.execute("UPDATE runs SET used = ? WHERE run_id = ?", (used.model_dump_json(), event.run_id))
        return numbered

    def events(self, run_id: str, after: int = 0) -> list[Event]:
        """The events of a run with a number above `after`, in order."""
        with self._lock:
            found = self._db.execute(
                "SELECT json FROM events WHERE run_id = ? AND seq > ? ORDER BY seq", (run_id, after)
            ).fetchall()
        try:
            return [EVENT.validate_json(text) for (text,) in found]
        except ValidationError as error:
            raise UnreadableRun(run_id) from error

    def save_candidate(self, run_id: str, candidate: Candidate) -> None:
        """Keep a candidate at once: a checkpoint is written only when its node ends."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?)",
                (run_id, candidate.number, candidate.model_dump_json()),
            )

    def candidates(self, run_id: str) -> list[Candidate]:
        """All candidates of a run, by number."""
        with self._lock:
            found = self._db.execute(
                "SELECT json FROM candidates WHERE run_id = ? ORDER BY number", (run_id,)
            ).fetchall()
        try:
            return [Candidate.model_validate_json(text) for (text,) in found]
        except ValidationError as error:
            raise UnreadableRun(run_id) from error

    @contextmanager
    def owned(self, run_id: str) -> Iterator[None]:
        """Own a run while the block lasts.

        Raises:
            RunBusy: another process (or thread) owns it.
        """
        handle = os.open(self._locks / f"{run_id}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunBusy(run_id) from None
            yield
        finally:
            os.close(handle)

    def _owned(self, run_id: str) -> bool:
        path = self._locks / f"{run_id}.lock"
        if not path.exists():
            return False
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(handle)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            yield self._db
