from tests.agent.conftest import clock, make_runs, settings

__all__ = ["clock", "make_runs", "settings"]
