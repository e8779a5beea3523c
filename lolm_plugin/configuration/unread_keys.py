"""Find settings without effect: keys that a run never reads, and keys that another key switches off.

Setting a key that this policy, critic, learner or environment never reads is an error. A key that another key switches
off is named in the log. The rules are in the schema. ``tests/configuration/test_unread_keys.py`` runs every kind of
policy and checks that each key of the defaults is read or has a rule.
"""

import functools
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read
from lolm_plugin.configuration.fields import ReadIf
from lolm_plugin.configuration.schema import field_of, trunks
from lolm_plugin.errors import ConfigError

Config = Mapping[str, Any]

ACCEPTED_IF_UNREAD = {
    "obs_agent_id": False,
    "obs_last_action": False,
}  # copies of our yaml have them
REFUSED_BY_CHECK = ("kl.enabled", "kl.reference")  # if unread: config_check has a clearer error
EVERYWHERE = (
    *("name", "env", "mac", "agent", "learner", "action_selector", "agent_output_type", "critic_type", "seed"),
    *("preset", "learner_preset"),
)


def never_read(config: Config, key: str) -> str:
    """Return the reason why no run of this kind reads ``key``; empty if one does."""
    section, dot, _ = key.partition(".")
    if dot and section in registry.TRUNKS and section not in trunks(config["agent"], str(config["critic_type"])):
        return f"agent={config['agent']} and critic_type={config['critic_type']}"
    return "" if key in REFUSED_BY_CHECK else _unmet(config, key, never=True)


def switched_off(config: Config, key: str) -> str:
    """Return the setting that switches ``key`` off; empty if there is none."""
    return _unmet(config, key, never=False)


def _unmet(config: Config, key: str, never: bool) -> str:
    flat = flatten(config)
    for rule in field_of(key).marks:
        if not isinstance(rule, ReadIf) or rule.never != never or key in rule.keys:
            continue
        if not rule.test(*(flat.get(name) for name in rule.keys)):
            return rule.why or " and ".join(f"{name}={flat.get(name)}" for name in rule.keys)
    return ""


def check(config: Config, given: Config, without: Config, where: str) -> None:
    """Raise ConfigError for a key of ``given`` that a run of ``config`` never reads.

    ``without`` is the configuration without users' settings. A value that is the same there is accepted, so that a
    command line may repeat a default. Errors name ``where``, the source of ``given``.
    """
    final, before = flatten(config), flatten(without)
    if "env_args.seed" in flatten(given) and final["env_args.seed"] not in (None, config.get("seed")):
        raise ConfigError(
            f"env_args.seed={final['env_args.seed']} {where} would have no effect, because the run's seed is used "
            "instead; set seed."
        )
    for key in flatten(given):
        if key not in final or key.startswith("env_args") or (key in before and before[key] == final[key]):
            continue
        if key in ACCEPTED_IF_UNREAD and final[key] == ACCEPTED_IF_UNREAD[key]:
            continue
        shipped = key in before or key in EVERYWHERE
        if config.get("mac") in registry.ENTRIES["mac"]:
            reason = never_read(config, key) or ("" if shipped else "only other algorithms have it")
        else:
            reason = "" if shipped or key not in _own_keys() else "EPyMARL's own algorithms do not read it"
        if reason:
            raise ConfigError(
                f"{key}={final[key]} {where} would have no effect with name={config['name']} ({reason}); leave it out."
            )


def notes(config: Config, given: Config) -> list[str]:
    """Return a line for the log for each key in ``given`` that another key switches off."""
    if config.get("mac") not in registry.ENTRIES["mac"]:
        return []
    final = flatten(config)
    found = {key: switched_off(config, key) for key in flatten(given) if key in final and not never_read(config, key)}
    return [f"Without effect: {key}={final[key]} ({reason})." for key, reason in found.items() if reason]


@functools.cache
def _own_keys() -> frozenset[str]:
    """Return the keys that lolm_plugin adds to EPyMARL's."""
    shared = {"mongo", "worker_timeout", "worker_restarts"}  # any algorithm may use them
    return frozenset(flatten(read(plugin_config_dir() / "default.yaml"))) - shared
