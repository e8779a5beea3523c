"""How long a battle may last, told from its configuration: for an estimate no environment is built."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin.envs import probe_tasks, smax_scenarios
from lolm_plugin.observations import sc2v2

ASSUMED = 150  # environment steps, where only the environment knows


def episode_limit(env: str, env_args: Mapping[str, Any]) -> int | None:
    """Environment steps that a battle of ``env`` may last; None where only the environment knows."""
    if env == "probe":
        return probe_tasks.table(env_args["map_name"]).episode_limit
    if env == "smax":
        return env_args.get("time_limit") or smax_scenarios.scenario(env_args["map_name"]).episode_limit
    if env == "sc2":
        return smax_scenarios.SMAC_LIMITS.get(env_args["map_name"])
    if env == "sc2v2":
        return sc2v2.TIME_LIMIT
    return env_args.get("time_limit")
