"""From a request and the settings to a policy."""

from __future__ import annotations

from agent.policies.protocol import Policy
from agent.settings import Settings, SettingsError
from agent.state import PolicyName, RunRequest


def make_policy(request: RunRequest, settings: Settings) -> Policy:
    """The policy that a request asks for.

    Raises:
        SettingsError: it needs a key, a script or a model name that isn't set.
    """
    name = choose(request.policy if request.policy != "auto" else settings.policy, settings)
    model = request.model or settings.model
    if name == "offline":
        if request.model is not None:
            raise SettingsError(
                "the offline policy uses no model; drop --model, or choose --policy openai or anthropic"
            )
        from agent.policies.offline import OfflinePolicy

        return OfflinePolicy()
    from agent.policies.model import ModelPolicy

    if name == "openai":
        from agent.policies.openai import openai_model

        return ModelPolicy(name, openai_model(settings, model or settings.openai_model))
    if name == "anthropic":
        from agent.policies.anthropic import anthropic_model

        return ModelPolicy(name, anthropic_model(settings, model or settings.anthropic_model))
    from agent.policies.scripted import ScriptedModel

    if settings.script is None:
        raise SettingsError("the scripted policy needs KERNELWRIGHT_SCRIPT, a JSON file with the list of replies")
    return ModelPolicy("scripted", ScriptedModel.from_file(settings.script))


def choose(name: PolicyName, settings: Settings) -> PolicyName:
    """Resolve `auto`: a vendor whose key or base URL is set, OpenAI before Anthropic, else offline."""
    if name != "auto":
        return name
    if settings.openai_api_key or settings.openai_base_url:
        return "openai"
    if settings.anthropic_api_key or settings.anthropic_base_url:
        return "anthropic"
    return "offline"
