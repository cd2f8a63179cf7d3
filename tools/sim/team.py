"""Several cores at once: one thread each, of which exactly one runs at a time.

A core runs until it has written shared HBM or waits for others at a meeting; then the next one that can run goes on. So
cores that run the same code stay side by side, as they do on the device, a run is deterministic, and the recorded stream
is a legal interleaving: everything before a meeting comes before everything behind it. When nobody can go on, the kernel
would hang the device: KW-DEADLOCK.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.sim import context
from tools.sim.core import Core, Place
from tools.sim.errors import Diagnostic, KernelError, SourceRange


class _Abandoned(BaseException):
    """Unwinds a waiting core's thread after another core failed."""


@dataclass(slots=True)
class _Waiting:
    """A core that has arrived at a meeting."""

    key: Hashable
    members: frozenset[int]
    payload: Any
    describe: str
    where: SourceRange | None
    place: Place | None


class Team:
    """The cores of one run and where each of them stands.

    Attributes:
        cores: by number; `Core.seat` is a core's number here.
        on_meeting: called with the numbers of the cores that meet, before the meeting's work is done.
    """

    def __init__(self, cores: Sequence[Core]) -> None:
        self.cores = list(cores)
        self.on_meeting: Callable[[frozenset[int]], None] | None = None
        self._turns = [threading.Semaphore(0) for _ in cores]
        self._waiting: dict[int, _Waiting] = {}
        self._results: dict[int, Any] = {}
        self._done: set[int] = set()
        self._error: BaseException | None = None
        self._finished = threading.Event()
        for seat, core in enumerate(self.cores):
            core.team = self
            core.seat = seat

    def run(self, body: Callable[[Core], Any]) -> list[Any]:
        """body(core) for every core; returns their results by number.

        Raises:
            KernelError: a core failed, or the cores wait for each other for ever.
        """
        returned: list[Any] = [None] * len(self.cores)

        def work(seat: int) -> None:
            self._turns[seat].acquire()
            try:
                if self._error is None:
                    context.enter(self.cores[seat])
                    returned[seat] = body(self.cores[seat])
            except _Abandoned:
                pass
            except BaseException as error:  # noqa: BLE001 - carried to the caller's thread and raised there
                if self._error is None:
                    self._error = error
            finally:
                context.enter(None)
                self._done.add(seat)
                self._hand_over()

        threads = [threading.Thread(target=work, args=(s,), daemon=True) for s in range(len(self.cores))]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        self._finished.wait()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return returned

    def meet(
        self, core: Core, key: Hashable, members: Sequence[int], payload: Any, finish: Callable[..., Any], describe: str
    ) -> Any:
        """Wait until all `members` (core numbers) have arrived at `key`.

        The last one to arrive calls finish({number: payload}), whose result is a mapping from number to what `meet`
        returns to that core (or None).
        """
        seat = core.seat
        group = frozenset(members)
        self._waiting[seat] = _Waiting(key, group, payload, describe, core.where(), core.here())
        present = {s: w for s, w in self._waiting.items() if w.key == key and w.members == group}
        if set(present) == group:
            for member in group:
                del self._waiting[member]
            if self.on_meeting is not None:
                self.on_meeting(group)
            results = finish({s: w.payload for s, w in present.items()}) or {}
            self._results.update({s: results.get(s) for s in group})
        else:
            self._hand_over()
            self._turns[seat].acquire()
            if self._error is not None:
                raise _Abandoned
        return self._results.pop(seat)

    def pause(self, core: Core) -> None:
        """Let the next core that can run go on; comes back when it is this one's turn again."""
        seat, count = core.seat, len(self.cores)
        for step in range(1, count):
            other = (seat + step) % count
            if other not in self._done and other not in self._waiting:
                self._turns[other].release()
                self._turns[seat].acquire()
                if self._error is not None:
                    raise _Abandoned
                return

    def _hand_over(self) -> None:
        """Let the next core run: the lowest-numbered one that isn't waiting; on failure wake everyone."""
        if len(self._done) == len(self.cores):
            self._finished.set()
            return
        ready = [s for s in range(len(self.cores)) if s not in self._done and s not in self._waiting]
        if self._error is None and not ready:
            self._error = KernelError(self._deadlock())
        if self._error is not None:
            waiting = [s for s in range(len(self.cores)) if s not in self._done]
            self._waiting.clear()
            self._turns[waiting[0]].release()
            return
        self._turns[ready[0]].release()

    def _deadlock(self) -> Diagnostic:
        stuck = sorted(self._waiting)
        parts = [f"core {s} waits in {self._waiting[s].describe}" for s in stuck]
        parts += [f"core {s} has finished" for s in sorted(self._done)]
        first = self._waiting[stuck[0]]
        others = tuple(w.where for s in stuck[1:] if (w := self._waiting[s]).where is not None)
        return Diagnostic(
            code="KW-DEADLOCK",
            message="the cores wait for each other for ever: " + "; ".join(parts),
            where=first.where,
            fix="make all cores reach the same meetings in the same order",
            related=others,
        )
