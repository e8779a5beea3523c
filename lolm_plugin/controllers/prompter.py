"""Build the prompter from the configuration, and check that its prompts fit the model before weights are loaded."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.model_folder import context_length
from lolm_plugin.llm.sources import resolve
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.description import Description
from lolm_plugin.prompts.automatic import AutomaticWriter
from lolm_plugin.prompts.chat import ChatWriter
from lolm_plugin.prompts.prompter import Prompter
from lolm_plugin.prompts.style import BattleWriter, Writer, build_style


def build_writer(prompt: Mapping[str, Any], layout: Description) -> Writer:
    """Return the writer of a task's prompts. ``prompt`` is that section of the configuration.

    Raises:
        ConfigError: ``prompt.source=written``, but the environment has no written prompts.
    """
    style, dynamic, source = build_style(prompt["style"]), prompt["dynamic"], prompt["source"]
    if isinstance(layout, BattleLayout) and source != "auto":
        return BattleWriter(layout, style, dynamic)
    if source == "written":
        raise ConfigError(
            f"prompt.source=written cannot be used with env={layout.env}, which has no written prompts: set "
            "prompt.source=auto."
        )
    return AutomaticWriter(layout, style.short, dynamic)


def build_prompter(llm: Mapping[str, Any], prompt: Mapping[str, Any], layout: Description) -> Prompter:
    """Return the prompter of a map.

    Raises:
        ConfigError: there is no tokenizer, or the longest prompt exceeds the context of ``llm.model``.
    """
    source = resolve(llm["model"])
    writer, tokenizer = build_writer(prompt, layout), source.load_tokenizer()
    prompter = Prompter(ChatWriter(writer, tokenizer, llm["model"]) if prompt["chat"] else writer, tokenizer)
    prompter.check_fits(context_length(source.load_config(), tokenizer), llm["model"])
    return prompter


def check_prompts(config: Mapping[str, Any]) -> list[str]:
    """Check the tokenizer and the length of prompts before any environment is built; return notes for the log.

    If only the running game knows a map's sizes, the controller makes these checks later.

    Raises:
        ConfigError: as ``build_prompter``.
    """
    env, env_args = config["env"], config["env_args"]
    if env in registry.MAP_SIZES:
        n_agents, n_actions = registry.load(registry.MAP_SIZES[env])(env_args)
        layout = build_layouts(env, env_args, n_agents, n_actions, config["layout"]).observation
        prompter = build_prompter(config["llm"], config["prompt"], layout)
        note = layout.note and f"Prompts: {layout.note}; see docs/prompts.md."
        return [sentence for sentence in (prompter.whole_text_reason, note) if sentence]
    return []
