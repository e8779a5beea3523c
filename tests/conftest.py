"""Shared fixtures: random observations that obey a layout, and learners that play with them."""

import atexit
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from lolm_plugin import registry
from lolm_plugin.configuration import config_files
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.units import HEALERS, UNIVERSE
from lolm_plugin.paths import BUNDLED, use_host_config_dir
from tests.dotted import put

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell makes background jobs ignore Ctrl-C, and every process that a test starts would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # the same with nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # A battle of SMAX takes about 10 s to compile. With this cache, all processes of a test session compile each size
    # once, including xdist's workers and processes that tests start.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="lolm-tests-jax-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
torch.set_num_threads(1)  # tests use one process per core, and sums in one thread have a fixed order

# Maps on which each registered environment is tested. An environment that is not listed uses the map of its yaml.
MAPS = {
    "probe": ({"map_name": "target"},),
    "sc2": ({"map_name": "MMM2"}, {"map_name": "2s3z", "obs_pathing_grid": True, "obs_last_action": True}),
    "sc2v2": ({"map_name": "terran_5_vs_5"},),
    "smaclite": ({"map_name": "MMM2"},),
    "smax": ({"map_name": "3s_vs_4z"},),
}


def _yaml(env):
    return config_files.read(config_files.plugin_config_dir() / f"envs/{env}.yaml")


TESTED_MAPS = [
    (env, env_args)
    for env in sorted(name for name, entry in registry.ENVS.items() if entry.battles)
    for env_args in MAPS.get(env) or [_yaml(env)["env_args"]]
]


@pytest.fixture
def host_dir():
    """Return the configuration folder of the bundled host."""
    return BUNDLED / "config"


@pytest.fixture
def fresh_python():
    """Return a function that runs a program in a new process and returns its output."""

    def run(program, **environment):
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(registry.__file__).parents[1],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    return run


@pytest.fixture(autouse=True)
def _fresh_log(monkeypatch):
    """Remove the command line's log handler: it writes to an old stderr and hides messages from caplog."""
    log = logging.getLogger("lolm")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)


@pytest.fixture(autouse=True)
def _host_config_dir(scenarios):
    """Reset the host's folder, which the previous test may have changed."""
    use_host_config_dir(scenarios)


@pytest.fixture(scope="session")
def scenarios(tmp_path_factory):
    """Return a host's configuration folder with a SMACv2 scenario of each race, as in EPyMARL."""
    folder = tmp_path_factory.mktemp("host_config")
    (folder / "envs/smacv2_configs").mkdir(parents=True)
    for race, units in (("terran", "medivac"), ("protoss", "colossus"), ("zerg", "baneling")):
        _write_scenario(folder / f"envs/smacv2_configs/{race}_5_vs_5.yaml", race, units)
    return folder


def _write_scenario(path, race, rare_unit, **changes):
    flags = dict.fromkeys(("obs_last_action", "obs_pathing_grid", "obs_terrain_height", "obs_timestep_number"), False)
    team = {"dist_type": "weighted_teams", "unit_types": [rare_unit], "weights": [1.0], "observe": True}
    arguments = {
        **flags,
        **{"map_name": f"10gen_{race}", "obs_all_health": True, "obs_own_health": True, "obs_instead_of_state": False},
        **{"conic_fov": False, "obs_own_pos": True, "use_unit_ranges": True, "min_attack_range": 2},
        **{"state_last_action": True, "state_timestep_number": False},
        "capability_config": {"n_units": 5, "n_enemies": 5, "team_gen": team},
    }
    path.write_text(yaml.safe_dump({"env": "sc2wrapped", "env_args": {**arguments, **changes}}))


@pytest.fixture(params=TESTED_MAPS, ids=lambda tested: f"{tested[0]}-{tested[1]['map_name']}")
def layouts(request):
    """Return the layouts of each registered environment with battles."""
    env, env_args = request.param
    return build_layouts(env, env_args, *registry.load(registry.MAP_SIZES[env])(env_args))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from lolm_plugin.llm.sources import resolve

    return resolve("tiny-llama").load_tokenizer()


@pytest.fixture(scope="session")
def made_up():
    """Return the functions below, for fixtures of a wider scope."""
    return SimpleNamespace(tiny_args=_tiny_args, new_learner=_new_learner, play=_play)


@pytest.fixture
def random_views():
    return _random_views


@pytest.fixture
def tiny_args():
    return _tiny_args


@pytest.fixture
def new_learner():
    return _new_learner


@pytest.fixture
def play():
    return _play


def _random_views(layout, rows, seed, unseen=0.3):
    """Return valid observations [rows, obs_size] and masks int32 [rows, n_actions] of living agents.

    Each other unit is absent with probability ``unseen``. Present units obey the rules of every environment: fractions
    are in 0..1, dist is the length of (dx, dy), exactly one type bit is set, and targets are visible.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, layout.n_actions), np.int32)
    mask[:, 1] = 1
    mask[:, 2:N_BASE_ACTIONS] = rng.random((rows, 4)) < 0.7
    obs = np.zeros((rows, layout.size), np.float32)
    obs[:, :4] = mask[:, 2:N_BASE_ACTIONS]
    values = {}
    for name in ("own", "allies", "enemies"):
        block = getattr(layout, name)
        present = (rng.random((rows, block.rows)) >= unseen) | (name == "own")
        values[name] = _random_units(block, present, rng)
    own, enemies = values["own"][:, 0], values["enemies"]
    kinds = np.array(layout.own.kinds or (layout.own.only_kind,))
    bits = own[:, len(layout.own.fields) : len(layout.own.fields) + len(layout.own.kinds)]
    kind = kinds[bits.argmax(-1)] if layout.own.kinds else np.repeat(kinds, rows)
    _offer_targets(layout, mask, enemies, kind, rng)
    for name, units in values.items():
        block = getattr(layout, name)
        obs[:, block.start : block.end] = units.reshape(rows, -1)
    return torch.from_numpy(obs), torch.from_numpy(mask)


def _offer_targets(layout, mask, enemies, kind, rng):
    """Make visible enemies in range available. A healer's targets are allies instead."""
    sight, reach = (
        np.array(value if isinstance(value, tuple) else (value,) * len(UNIVERSE)) if value is not None else None
        for value in (layout.sight, layout.shoot_range)
    )
    flag, dist = enemies[..., layout.enemies.fields.index("can_target")], enemies[..., 1]
    if reach is not None:
        flag *= dist * sight[kind][:, None] <= reach[kind][:, None]
    mask[:, N_BASE_ACTIONS : N_BASE_ACTIONS + layout.n_enemies] = flag
    heals = np.isin(kind, HEALERS)
    mask[heals, N_BASE_ACTIONS:] = 0
    mask[heals, N_BASE_ACTIONS : N_BASE_ACTIONS + layout.n_agents - 1] = 1
    offered = mask[heals, N_BASE_ACTIONS : N_BASE_ACTIONS + layout.n_enemies]
    flag[heals] = offered * (dist[heals] > 0)


def _random_units(block, present, rng):
    shape = present.shape
    angle, distance = rng.uniform(0, 2 * np.pi, shape), rng.uniform(0, 0.99, shape)
    known = {
        "can_target": rng.random(shape) < 0.5,
        "visible": np.ones(shape),
        "dist": distance,
        "dx": distance * np.cos(angle),
        "dy": distance * np.sin(angle),
    }
    columns = [known.get(name, rng.uniform(0.01, 1, shape)) for name in block.fields]
    if block.kinds:
        columns += list(np.moveaxis(np.eye(len(block.kinds))[rng.integers(len(block.kinds), size=shape)], -1, 0))
    columns += [rng.integers(2, size=shape) for _ in range(block.unread)]
    return (np.stack(columns, -1) * present[..., None]).astype(np.float32)


def _random_states(args, shape, rng):
    layout = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions).state
    blocks = (layout.allies, layout.enemies)
    units = [_random_units(block, rng.random((*shape, block.rows)) < 0.8, rng) for block in blocks]
    return torch.from_numpy(np.concatenate([unit.reshape(*shape, -1) for unit in units], -1))


def _tiny_args(changes=None, n_agents=2, n_enemies=2, algorithm="lolm_mappo_tiny"):
    """Return the arguments of an algorithm on a SMAX battle, as from a host. ``changes`` has dotted keys."""
    config = config_files.resolve(algorithm, "probe", BUNDLED / "config").config
    config |= {"env": "smax", "env_args": {"map_name": f"{n_agents}m_vs_{n_enemies}z"}, "seed": 1, "device": "cpu"}
    config |= {"n_agents": n_agents, "n_actions": N_BASE_ACTIONS + n_enemies}
    # Fixed values, so that tests do not depend on the tuned values in the yaml.
    config |= {"lr": 0.003, "head_lr": 0.003, "critic_lr": 0.003, "entropy_coef": 0.01}
    config |= {
        "epochs": 2,
        "minibatches": 1,
        "learner_log_interval": 1,
        "prompt": {"style": "compact", "source": None, "dynamic": True, "chat": False},
    }
    put(config, changes or {})
    return SimpleNamespace(**config)


def _scheme(args):
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions)
    return {
        "state": {"vshape": layouts.state.size},
        "obs": {"vshape": layouts.observation.size, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": torch.int},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "reward": {"vshape": (1,)},
    }


class Log:
    """Substitute for the host's logger; ``logged`` is {name: [value, ...]}."""

    def __init__(self):
        self.logged = defaultdict(list)
        self.console_logger = SimpleNamespace(info=lambda text: None)

    def log_stat(self, name, value, t_env):
        self.logged[name].append(value)


def _new_learner(args):
    """Return a learner with its controller, built as a host does."""
    from lolm_plugin.learners.mappo import MAPPOLearner

    scheme = _scheme(args)
    mac = registry.load(registry.ENTRIES["mac"][args.mac])(scheme, {"agents": args.n_agents}, args)
    return MAPPOLearner(mac, scheme, Log(), args)


def _play(mac, lengths=(4, 2, 3), t_env=0, seed=0, unseen=0.3):
    """Return a batch of episodes with these lengths, played by ``mac`` on random observations, as a runner stores it.

    The first episode is cut off by the time limit; the others terminate. In every episode the last agent is dead from
    the second step on.
    """
    from lolm_plugin.host.bundled.episode_batch import EpisodeBatch

    args, layout = mac.args, mac.layouts.observation
    batch = EpisodeBatch(_scheme(args) | mac.fields, {"agents": args.n_agents}, len(lengths), max(lengths) + 1)
    shape = (len(lengths), max(lengths) + 1, args.n_agents)
    obs, mask = (x.unflatten(0, shape) for x in _random_views(layout, np.prod(shape), seed, unseen))
    obs[:, 1:, -1], mask[:, 1:, -1] = 0, 0
    mask[:, 1:, -1, 0] = 1
    rng = np.random.default_rng(seed)
    state = _random_states(args, shape[:2], rng)
    mac.init_hidden(batch_size=len(lengths))
    for t in range(max(lengths) + 1):
        there = [i for i, length in enumerate(lengths) if t <= length]
        batch.update({"obs": obs[there, t], "avail_actions": mask[there, t], "state": state[there, t]}, there, t)
        going = [i for i in there if t < lengths[i]]
        if not going:
            continue
        over = [[int(t == lengths[i] - 1 and i > 0)] for i in going]
        batch.update(
            {
                "actions": mac.select_actions(batch, t, t_env, going),
                "reward": torch.from_numpy(rng.uniform(0, 1, (len(going), 1)).astype(np.float32)),
                "terminated": torch.tensor(over, dtype=torch.uint8),
            },
            going,
            t,
            mark_filled=False,
        )
    return batch
