"""Settings: environment variables and defaults. The one place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent.faults import fault_text
from agent.state import PolicyName

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SettingsError(Exception):
    """The operator's mistake: one line that names the variable or flag and what to do."""


def _either(name: str) -> Any:
    """Accept `KERNELWRIGHT_NAME` before the vendor's own `NAME`."""
    return AliasChoices(f"KERNELWRIGHT_{name}", name)


class Settings(BaseSettings):
    """Every knob, with its default. Variable: `KERNELWRIGHT_` and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="KERNELWRIGHT_", extra="ignore", populate_by_name=True)

    home: Path = Path("~/.local/share/kernelwright")
    """Where runs are stored."""
    policy: PolicyName = "auto"
    """Who writes kernels when the request doesn't say."""
    model: str | None = None
    """Model name for the vendor policies when the request doesn't say."""
    openai_model: str = "gpt-5.4"
    anthropic_model: str = "claude-sonnet-4-6"
    openai_api_key: SecretStr | None = Field(default=None, validation_alias=_either("OPENAI_API_KEY"))
    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias=_either("ANTHROPIC_API_KEY"))
    openai_base_url: str | None = Field(default=None, validation_alias=_either("OPENAI_BASE_URL"))
    """Any OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; needs no key."""
    anthropic_base_url: str | None = Field(default=None, validation_alias=_either("ANTHROPIC_BASE_URL"))
    script: Path | None = None
    """JSON list of replies for the scripted policy."""
    model_timeout: float = Field(default=120.0, gt=0)
    """Seconds that one model call may take."""
    model_retries: int = Field(default=5, ge=0, le=20)
    """How often a model call is repeated after 429, 5xx or a lost connection."""
    model_turns: int = Field(default=12, ge=1, le=100)
    """Model calls within one draft, debug or improve step."""
    max_output_tokens: int = Field(default=16_000, ge=256)
    """Longest model answer."""
    polish_attempts: int = Field(default=6, ge=0)
    """Further attempts after the first correct kernel when no performance goal was named."""
    patience: int = Field(default=6, ge=1)
    """Correct attempts in a row without a gain of 0.5 % before a run stops."""
    debug_rounds: int = Field(default=3, ge=1)
    """Wrong kernels in a row before the search goes back to the best correct one."""
    give_up_after: int = Field(default=10, ge=1)
    """Wrong kernels in a row, none ever correct, before a run stops."""
    grace_seconds: float = Field(default=5.0, ge=0)
    """How long a step may run past the time budget or a cancellation before it is abandoned."""
    parallel_runs: int = Field(default=2, ge=1)
    """Runs worked on at once in one process; others wait."""
    max_queued: int = Field(default=32, ge=0)
    """Runs that may wait in the service before it answers 429."""
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    token: SecretStr | None = None
    """Bearer token of the service; required on a host that is not loopback."""
    max_request_bytes: int = Field(default=1_000_000, ge=1_000)
    """Largest HTTP body that the service reads."""

    @property
    def data_dir(self) -> Path:
        """The data directory, created when missing.

        Raises:
            SettingsError: it can't be created or written.
        """
        path = self.home.expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(
                f"can't write to the data directory {path} ({error.strerror}); set KERNELWRIGHT_HOME to a folder of yours"
            ) from error
        return path

    def check_host(self, host: str) -> None:
        """Refuse to listen beyond this machine without a token.

        Raises:
            SettingsError: host is not loopback and no token is set.
        """
        if host not in LOOPBACK and not self.token:
            raise SettingsError(
                f"refusing to listen on {host} without a token; set KERNELWRIGHT_TOKEN, or use --host 127.0.0.1"
            )


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: a variable has a value that can't be used; one line per first fault.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        variable = name if name.isupper() else f"KERNELWRIGHT_{name.upper()}"
        raise SettingsError(f"{variable}: {fault_text(first)}") from error
