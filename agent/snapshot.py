"""A run's state as it is stored: the newest checkpoint, with the candidates and spending that the store keeps beside it."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from pydantic import ValidationError

from agent.state import RunState
from agent.store import Store, UnreadableRun


def thread_of(run_id: str) -> RunnableConfig:
    """How LangGraph addresses a run."""
    # A step is a node; the budget ends a run, not LangGraph's own limit of 25.
    return {"configurable": {"thread_id": run_id}, "recursion_limit": 100_000}


def state_of(store: Store, saver: SqliteSaver, run_id: str) -> RunState:
    """The newest checkpoint of a run, with all candidates and all that was spent.

    Raises:
        RunNotFound: no such run.
        UnreadableRun: another version stored it.
    """
    row = store.row(run_id)
    saved = saver.get_tuple(thread_of(run_id))
    values = saved.checkpoint["channel_values"] if saved else {}
    fields = {name: values[name] for name in RunState.model_fields if name in values}
    try:
        state = RunState(**{"run_id": run_id, "request": row.request, **fields})
    except ValidationError as error:
        raise UnreadableRun(run_id) from error
    return state.model_copy(update={"candidates": store.candidates(run_id), "used": row.used})
