"""pytest plugin: `pytest -p tools.sim.pytest_plugin` serves the language modules of this simulator to a test suite.

It is loaded before any conftest, so that whatever imports `nki`, `neuronxcc.nki`, `neuron_dtypes` or the simulator package
that a public harness looks for gets this one.
"""

from __future__ import annotations

from tools.sim.frontend.host import install

install()
