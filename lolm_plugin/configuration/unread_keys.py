"""Find settings without effect: keys that a run never reads, and keys that another key switches off.

A key that this policy, critic, learner or environment never reads is refused where a user sets it; one that it would
read if another key were different is named in the log. ``tests/configuration/test_unread_keys.py`` runs every kind of
policy and holds that each key of the defaults is either read or listed here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lolm_plugin import registry
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read
from lolm_plugin.errors import ConfigError

Config = Mapping[str, Any]


class Rule(NamedTuple):
    """Keys (``section.`` stands for all of a section) that are without effect unless ``read`` is true of a run."""

    keys: tuple[str, ...]
    read: Callable[[Config], bool]
    why: Callable[[Config], str]  # what makes them so, for a sentence


def _lm(config: Config) -> bool:
    return config["agent"] == "llm"


def _trunks(config: Config) -> set[str]:
    names = {config["agent"], str(config["critic_type"]).removesuffix("_critic")}
    return names & registry.TRUNKS.keys()


def _set_to(*keys: str) -> Callable[[Config], str]:
    """Say what those keys are in this configuration."""
    return lambda config: " and ".join(f"{key}={flatten(config).get(key)}" for key in keys)


NEVER = (
    Rule(("optim_alpha",), lambda config: False, lambda config: "Adam, which learner=mappo_learner uses, has no alpha"),
    Rule(("add_value_last_step",), lambda config: False, _set_to("learner")),
    Rule(
        ("hidden_dim",), lambda config: False, _set_to("agent")
    ),  # widths are in sections: gru.width, updet.head_width
    Rule(("llm.", "lora.", "prompt.", "head.", "kl.", "head_lr", "clip_per_group"), _lm, _set_to("agent")),
    Rule(("obs_agent_id", "obs_last_action"), lambda config: not _lm(config), _set_to("agent")),
    Rule(("gru.",), lambda config: config["agent"] == "gru", _set_to("agent")),
    Rule(("entity.",), lambda config: bool(_trunks(config)), _set_to("agent", "critic_type")),
    *(
        Rule((f"{trunk}.",), lambda config, trunk=trunk: trunk in _trunks(config), _set_to("agent", "critic_type"))
        for trunk in registry.TRUNKS
    ),
    Rule(
        ("critic.layers", "critic.heads"),
        lambda config: config["critic_type"] == "transformer_critic",
        _set_to("critic_type"),
    ),
    Rule(
        ("critic.width",),
        lambda config: config["critic_type"] in ("transformer_critic", "mlp_critic"),
        _set_to("critic_type"),
    ),
    Rule(("layout.description",), lambda config: config["env"] == "gymma", _set_to("env")),
    Rule(("layout.aligned_enemy_types",), lambda config: config["env"] == "sc2", _set_to("env")),
    Rule(("reward_scalarisation",), lambda config: config["runner"] != "vector", _set_to("runner")),
)

SWITCHED_OFF = (
    Rule(("kl.",), lambda config: config["kl"]["enabled"] or not _lm(config), _set_to("kl.enabled")),
    Rule(("lora.",), lambda config: config["llm"]["train"] == "lora" or not _lm(config), _set_to("llm.train")),
    Rule(("head.word_scale",), lambda config: config["head"]["keys"] == "words", _set_to("head.keys")),
    Rule(("value_clip",), lambda config: config["clip_values"], _set_to("clip_values")),
    Rule(("advantage_floor",), lambda config: config["normalise_advantages"], _set_to("normalise_advantages")),
    Rule(("greedy_rule", "test_sampled"), lambda config: config["test_greedy"], _set_to("test_greedy")),
    Rule(
        ("save_model_interval", "keep_checkpoints", "on_save_error"),
        lambda config: config["save_model"],
        _set_to("save_model"),
    ),
    Rule(("transfer_critic",), lambda config: bool(config["transfer_from"]), _set_to("transfer_from")),
    Rule(
        ("load_step", "strict"),
        lambda config: bool(config["checkpoint_path"] or config["transfer_from"]),
        _set_to("checkpoint_path", "transfer_from"),
    ),
    Rule(
        ("worker_timeout", "worker_restarts"),
        lambda config: config["runner"] == "supervised_parallel",
        _set_to("runner"),
    ),
    Rule(("render",), lambda config: config["runner"] != "vector", _set_to("runner")),
    Rule(
        ("wandb_team", "wandb_project", "wandb_mode", "wandb_save_model"),
        lambda config: config["use_wandb"],
        _set_to("use_wandb"),
    ),
    Rule(
        ("imitate.",), lambda config: bool(config["imitate"]["teacher"]), lambda config: "lolm imitate alone reads it"
    ),
    Rule(
        (
            *("lr", "head_lr", "critic_lr", "lr_decay", "epochs", "minibatches", "critic_minibatches", "eps_clip"),
            *(
                "entropy_coef",
                "entropy_coef_end",
                "entropy_target",
                "entropy_target_end",
                "clip_per_group",
                "target_kl",
            ),
            *("gae_lambda", "value_clip", "clip_values", "kl.", "normalise_advantages", "advantage_floor", "mask_dead"),
            *("t_max", "test_interval", "bootstrap_time_limit"),
        ),
        lambda config: not config["imitate"]["teacher"],
        lambda config: "lolm imitate has its own settings under imitate",
    ),
)
SWITCHES = ("kl.enabled", "llm.train")  # not switched off by themselves
HOLDS_ANYWAY = {"obs_agent_id": False, "obs_last_action": False}  # where nothing reads them; a copy of our yaml says so
REFUSED_BY_CHECK = ("kl.enabled", "kl.reference")  # where nothing reads them; config_check says it in better words
EVERYWHERE = (
    *("name", "env", "mac", "agent", "learner", "action_selector", "agent_output_type", "critic_type", "seed"),
    *("preset", "learner_preset"),
)


def never_read(config: Config, key: str) -> str:
    """Return why no run of this kind reads ``key``, for a sentence; empty if one does."""
    return "" if key in REFUSED_BY_CHECK else _first(NEVER, config, key)


def switched_off(config: Config, key: str) -> str:
    """Return which other setting leaves ``key`` without effect; empty if none does."""
    return "" if key in SWITCHES else _first(SWITCHED_OFF, config, key)


def check(config: Config, given: Config, without: Config, where: str) -> None:
    """Raise ConfigError for a key that a run of ``config`` never reads although ``given`` sets it.

    ``without`` is the configuration without what users set. A value that is the same there is no offence, so that a
    command line may say what holds anyway.
    """
    final, before = flatten(config), flatten(without)
    if "env_args.seed" in flatten(given) and final["env_args.seed"] not in (None, config.get("seed")):
        raise ConfigError(
            f"env_args.seed={final['env_args.seed']} {where} would have no effect, as the run's own seed takes its "
            "place; set seed."
        )
    for key in flatten(given):
        if key not in final or key.startswith("env_args") or (key in before and before[key] == final[key]):
            continue
        if key in HOLDS_ANYWAY and final[key] == HOLDS_ANYWAY[key]:
            continue
        if config.get("mac") in registry.ENTRIES["mac"]:
            reason = never_read(config, key) or (
                "" if key in (*before, *EVERYWHERE) else "other algorithms alone have it"
            )
        else:
            reason = "" if key in before or key in EVERYWHERE or key not in _own_keys() else "EPyMARL's own run it"
        if reason:
            raise ConfigError(
                f"{key}={final[key]} {where} would have no effect with name={config['name']} ({reason}); leave it out."
            )


def notes(config: Config, given: Config) -> list[str]:
    """Return a line for the log for each key in ``given`` that another key switches off."""
    if config.get("mac") not in registry.ENTRIES["mac"]:
        return []
    final = flatten(config)
    found = {key: switched_off(config, key) for key in flatten(given) if key in final}
    return [f"Without effect: {key}={final[key]} ({reason})." for key, reason in found.items() if reason]


@functools.cache
def _own_keys() -> frozenset[str]:
    """Return the keys that lolm_plugin adds to EPyMARL's."""
    shared = {"mongo", "worker_timeout", "worker_restarts"}  # of the record and of a runner that any algorithm may use
    return frozenset(flatten(read(plugin_config_dir() / "default.yaml"))) - shared


def _first(rules: tuple[Rule, ...], config: Config, key: str) -> str:
    for rule in rules:
        named = any(key.startswith(name) if name.endswith(".") else key == name for name in rule.keys)
        if named and not rule.read(config):
            return rule.why(config)
    return ""
