"""How long a battle may last, told from its configuration: for an estimate no environment is built."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin.envs import probe_tasks, smax_scenarios
from lolm_plugin.observations import sc2v2

# SMAC's own limits in environment steps, from its smac_maps.py.
SMAC = {
    "3m": 60,
    "8m": 120,
    "25m": 150,
    "5m_vs_6m": 70,
    "8m_vs_9m": 120,
    "10m_vs_11m": 150,
    "27m_vs_30m": 180,
    "MMM": 150,
    "MMM2": 180,
    "2s3z": 120,
    "3s5z": 150,
    "3s5z_vs_3s6z": 170,
    "3s_vs_3z": 150,
    "3s_vs_4z": 200,
    "3s_vs_5z": 250,
    "1c3s5z": 180,
    "2m_vs_1z": 150,
    "corridor": 400,
    "6h_vs_8z": 150,
    "2s_vs_1sc": 300,
    "so_many_baneling": 100,
    "bane_vs_bane": 200,
    "2c_vs_64zg": 400,
}
ASSUMED = 150  # environment steps, where only the environment knows


def episode_limit(env: str, env_args: Mapping[str, Any]) -> int | None:
    """Environment steps that a battle of ``env`` may last; None where only the environment knows."""
    if env == "probe":
        return probe_tasks.table(env_args["map_name"]).episode_limit
    if env == "smax":
        return env_args.get("time_limit") or smax_scenarios.scenario(env_args["map_name"]).episode_limit
    if env == "sc2":
        return SMAC.get(env_args["map_name"])
    if env == "sc2v2":
        return sc2v2.TIME_LIMIT
    return env_args.get("time_limit")
