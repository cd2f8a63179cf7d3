"""Suites of requests, the runner over the agent's public API, scores, and comparison with baselines."""
