"""The graph: eight nodes and the edges between them. Built by a call, never at import."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from agent import state as stored
from agent.desk import Desk
from agent.nodes import build_nodes
from agent.policies.protocol import Policy
from agent.state import Phase, RunState
from tools import task as contract

RunGraph = CompiledStateGraph[RunState, Desk, RunState, RunState]

ROUTES: dict[Phase, tuple[Phase, ...]] = {
    Phase.SPECIFY: (Phase.DRAFT,),
    Phase.DRAFT: (Phase.CHECK, Phase.DECIDE),
    Phase.CHECK: (Phase.PROFILE, Phase.DECIDE),
    Phase.PROFILE: (Phase.DECIDE,),
    Phase.DECIDE: (Phase.DEBUG, Phase.IMPROVE, Phase.REPORT),
    Phase.DEBUG: (Phase.CHECK, Phase.DECIDE),
    Phase.IMPROVE: (Phase.CHECK, Phase.DECIDE),
}
"""Where each node may go. A node names its successor in `RunState.phase`; a wrong kernel reaches `debug` through
`decide`, so that the budget is looked at before every further attempt."""


def build_graph(policy: Policy, checkpointer: BaseCheckpointSaver[str] | None) -> RunGraph:
    """The agent's graph for one policy.

    Args:
        policy: who specifies, drafts, debugs and improves.
        checkpointer: keeps the state after every node; None keeps nothing.
    """
    graph: StateGraph[RunState, Desk, RunState, RunState] = StateGraph(RunState, context_schema=Desk)
    for phase, node in build_nodes(policy).items():
        graph.add_node(phase.value, node)
    graph.add_edge(START, Phase.SPECIFY.value)
    for source, targets in ROUTES.items():
        graph.add_conditional_edges(source.value, _next_phase, [target.value for target in targets])
    graph.add_edge(Phase.REPORT.value, END)
    return graph.compile(checkpointer=checkpointer)


def _next_phase(state: RunState) -> str:
    return state.phase.value


def open_checkpoints(path: Path) -> SqliteSaver:
    """The default checkpointer: SQLite, limited to this project's own types when it reads back."""
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0)
    serde = JsonPlusSerializer(allowed_msgpack_modules=_stored_types())
    saver = SqliteSaver(connection, serde=serde)
    saver.setup()
    return saver


def _stored_types() -> list[tuple[str, str]]:
    return [
        (module.__name__, name)
        for module in (stored, contract)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]


def forget_history(saver: SqliteSaver, run_id: str) -> None:
    """Drop all checkpoints of a run but the newest: each holds the whole state."""
    with saver.cursor() as cursor:
        newest = "SELECT MAX(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
        for table in ("checkpoints", "writes"):
            cursor.execute(
                f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id < ({newest})",
                (run_id, run_id),
            )
