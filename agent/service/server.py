"""Starting the HTTP service."""

from __future__ import annotations

import socket
import sys

import uvicorn

from agent.service.app import build_app
from agent.settings import Settings, SettingsError


def serve_forever(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted.

    Args:
        settings: data directory, token, limits.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, which is printed.

    Raises:
        SettingsError: the host is not loopback and no token is set, or host and port can't be listened on.
    """
    settings.check_host(host)
    with _listening(host, port) as listener:
        address = f"[{host}]" if ":" in host else host
        print(
            f"kernelwright serves http://{address}:{listener.getsockname()[1]} (documentation at /docs); Ctrl-C stops",
            file=sys.stderr,
            flush=True,
        )
        config = uvicorn.Config(build_app(settings), log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        raise SettingsError(
            f"can't listen on {host} port {port} ({error.strerror}); choose others by --host or --port"
        ) from error
    return listener
