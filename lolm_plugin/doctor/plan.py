"""From a command line to how large its run is: the configuration, checked as for a run, and what is counted of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lolm_plugin import host as hosts
from lolm_plugin import registry
from lolm_plugin.commands.train import parse_updates, take_option
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.doctor import estimate
from lolm_plugin.doctor.episode_limits import ASSUMED, episode_limit
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.paths import use_host_config_dir


@dataclass(frozen=True)
class Plan:
    """A run: ``limit`` and ``length`` are environment steps a battle may and is assumed to last.

    ``steps`` and ``test_steps`` are environment steps to learn from and of all tests, ``decisions`` those of a step.
    """

    layouts: Layouts
    limit: int
    limit_known: bool
    length: int
    decisions: float
    battles: int
    updates: int
    tests: int
    test_battles: int

    @property
    def steps(self) -> int:
        return self.updates * self.battles * self.length

    @property
    def test_steps(self) -> int:
        return self.tests * self.test_battles * self.length

    @property
    def n_agents(self) -> int:
        return self.layouts.observation.n_agents


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run whose costs are known: one of ours. ConfigError as for a run."""
    config = checked(arguments)
    if not is_ours(config):
        raise ConfigError(
            f"--config={config['name']} is the host's own algorithm, of which lolm doctor knows no costs; set --config "
            f"to one with mac={' or mac='.join(registry.ENTRIES['mac'])}."
        )
    return config


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether this plugin's controllers run it, and not EPyMARL's."""
    return config["mac"] in registry.ENTRIES["mac"]


def checked(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``--config``, ``--env-config``, ``--epymarl`` and ``with ...`` mean; ConfigError as for a run."""
    arguments = list(arguments)
    checkout = hosts.locate(take_option(arguments, "--epymarl"))
    host_dir = hosts.config_dir(checkout)
    use_host_config_dir(host_dir)
    algorithm, environment = take_option(arguments, "--config"), take_option(arguments, "--env-config")
    resolved = config_files.resolve(algorithm, environment, host_dir)
    stray = arguments[: arguments.index("with")] if "with" in arguments else arguments
    if stray and "=" not in stray[0]:
        raise ConfigError(f"lolm doctor does not know {stray[0]}; see lolm doctor --help.")
    config = config_check.apply_updates(resolved, parse_updates(arguments), host_dir)
    config_check.check(config)
    return config


def plan(config: Mapping[str, Any]) -> Plan:
    """How large the run of a checked configuration is, as far as the configuration tells."""
    env, env_args, battles = config["env"], config["env_args"], config["batch_size_run"]
    n_agents, n_actions = registry.load(registry.MAP_SIZES[env])(env_args)
    limit = episode_limit(env, env_args)
    # Nobody falls where there are no teams: all agents decide until the time is over.
    falls = registry.ENVS[config["env"]].battles
    length = estimate.typical_length(limit or ASSUMED) if falls else limit or ASSUMED
    updates = estimate.updates(config["t_max"], battles, length)
    return Plan(
        layouts=build_layouts(env, env_args, n_agents, n_actions, config["layout"]),
        limit=limit or ASSUMED,
        limit_known=limit is not None,
        length=length,
        decisions=estimate.decisions_a_step(n_agents) if falls else float(n_agents),
        battles=battles,
        updates=updates,
        tests=estimate.times_tested(updates, config["test_interval"], battles * length),
        test_battles=config["test_nepisode"] * (1 + (config["test_sampled"] and config["test_greedy"])),
    )
