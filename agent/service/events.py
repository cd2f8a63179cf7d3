"""A run's events as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
from sse_starlette import ServerSentEvent

from agent.runs import Runs

_POLL_SECONDS = 0.15


async def stream_events(runs: Runs, run_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    """Events after that number, as they come; id, type and JSON of each. Ends when the run does."""
    while True:
        events, going_on = await anyio.to_thread.run_sync(runs.poll, run_id, after)
        for event in events:
            after = event.seq
            yield ServerSentEvent(data=event.model_dump_json(), event=event.type, id=str(event.seq))
        if not events and not going_on:
            return
        if not events:
            await anyio.sleep(_POLL_SECONDS)
