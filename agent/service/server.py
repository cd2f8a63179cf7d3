"""Starting the HTTP service."""

from __future__ import annotations

import sys

import uvicorn

from agent.service.app import build_app
from agent.settings import Settings


def serve_forever(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        SettingsError: the host is not loopback and no token is set.
    """
    settings.check_host(host)
    print(f"kernelwright serves http://{host}:{port} (documentation at /docs)", file=sys.stderr)
    uvicorn.run(build_app(settings), host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
