"""What every vendor's endpoint has in common: how it is reached, whose prices hold, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from agent.policies.chat_model import ModelRefused, Reply, ToolSpec, Transient, Turn
from agent.policies.retry import retry_after
from agent.settings import Settings, SettingsError

TRANSIENT = (408, 409, 429)
"""HTTP statuses below 500 that may not come again: timeout, conflict, rate limit."""

Ask = Callable[[str, Sequence[Turn], Sequence[ToolSpec], Callable[[str], None]], Reply]
"""One call: system prompt, turns, tools, and where streamed text goes."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a vendor's models are reached.

    Attributes:
        key: what to show there; servers of one's own take any.
        own_server: a base URL was set, so it isn't the vendor's own service.
        max_output_tokens: limit of one answer.
    """

    key: str
    base_url: str
    own_server: bool
    timeout: float
    max_output_tokens: int

    @classmethod
    def of(cls, vendor: str, key: SecretStr | None, base_url: str | None, public: str, settings: Settings) -> Endpoint:
        """The vendor's service at `public`, or the server that the settings name.

        Raises:
            SettingsError: there is neither a key nor a base URL, or the URL is none.
        """
        if key is None and base_url is None:
            name = vendor.upper()
            raise SettingsError(
                f"the {vendor} policy needs {name}_API_KEY, or {name}_BASE_URL for a server of your own; "
                "the offline policy needs neither"
            )
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise SettingsError(
                f"{vendor.upper()}_BASE_URL {base_url!r} is no address; it begins with http:// or https://, "
                "e.g. http://127.0.0.1:8000/v1"
            )
        shown = key.get_secret_value() if key else "none"
        limits = (settings.model_timeout, settings.max_output_tokens)
        return cls(shown, base_url or public, base_url is not None, *limits)


class HostedModel:
    """A `ChatModel` behind an endpoint; the vendor's module says how it is asked."""

    def __init__(self, model: str, endpoint: Endpoint, ask: Ask) -> None:
        self._model = model
        self._endpoint = endpoint
        self._ask = ask

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def listed_price(self) -> bool:
        """Whether the vendor's price list holds."""
        return not self._endpoint.own_server

    def complete(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        """One streamed answer.

        Raises:
            Transient: worth a repetition: rate limit, overload, lost connection, answer cut off.
            ModelRefused: any other refusal.
        """
        return self._ask(system, turns, tools, on_text)


def refusal(
    vendor: str, status: int, message: str, headers: Mapping[str, str], transient: tuple[int, ...] = TRANSIENT
) -> Transient | ModelRefused:
    """What an HTTP status of a vendor means: worth a repetition, or not."""
    if status in transient or status >= 500:
        return Transient(f"HTTP {status}: {message}", retry_after(headers))
    if status in (401, 403):
        return ModelRefused(f"the server refused the key (HTTP {status}); check {vendor.upper()}_API_KEY")
    return ModelRefused(f"the server refused the call (HTTP {status}): {message}")
