"""What every prompt style fills in."""

from typing import NamedTuple, Protocol

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.prompts.scene import Scene


class PromptParts(NamedTuple):
    """The part of a prompt that changes with the agent and the timestep, in the order it is read."""

    me: str
    allies: str
    enemies: str
    actions: str
    cue: str

    @property
    def text(self) -> str:
        return "".join(self)


class PromptStyle(Protocol):
    """``instruction + goal`` is the same for every agent and timestep, so that it is computed once.

    Both end in a newline and no part begins with a space, so that joining the token ids of the two
    halves is the same as tokenising the joined text.
    """

    instruction: str
    goal: str

    def describe(self, scene: Scene) -> PromptParts:
        """What changes with the agent and the timestep, in words."""
        ...


def build_style(name: str) -> PromptStyle:
    """The style behind ``prompt.style``."""
    if name not in registry.PROMPT_STYLES:
        raise ConfigError(
            f"prompt.style={name} is not a prompt style; set it to one of: {', '.join(registry.PROMPT_STYLES)}."
        )
    return registry.load(registry.PROMPT_STYLES[name])()
