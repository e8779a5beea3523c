"""Runners of faulty battles in each host, and checks of their processes."""

import logging
import os
import signal
import time
from argparse import Namespace
from types import SimpleNamespace

import cloudpickle
import pytest
import torch
import yaml

from lolm_plugin.host import open_host, register
from lolm_plugin.paths import locate
from lolm_plugin.run.components import OneHot
from lolm_plugin.runners import supervised_parallel_runner

from . import battles
from .battles import N_ACTIONS, N_AGENTS, Battle

# Workers get the battle by value, without the imports of this module.
cloudpickle.register_pickle_by_value(battles)

CHECKOUT = locate(None)
PATHS = {"bundled": None} if CHECKOUT is None else {"bundled": None, "EPyMARL": CHECKOUT}

# Seconds until a wait fails.
PATIENCE = 60.0


@pytest.fixture(scope="session", params=PATHS)
def host(request):
    host = open_host(PATHS[request.param])
    register(host)
    return host


class Controller:
    """Controller that acts only on its episode's observations. ``at`` maps a step to a function to call there."""

    def __init__(self):
        self.action_selector = SimpleNamespace()
        self.hidden, self.calls, self.at = [], [], {}

    def init_hidden(self, batch_size):
        self.hidden.append(batch_size)

    def select_actions(self, ep_batch, t_ep, t_env, bs=slice(None), test_mode=False):
        obs = ep_batch["obs"][bs, t_ep]
        assert (obs[..., 0] == t_ep).all(), "must see the step it acts in"
        assert t_ep > 0 or not ep_batch["actions"][bs].any(), "an episode starts with an empty row"
        self.calls.append((t_ep, bs))
        self.at.pop(t_ep, lambda: None)()
        return (obs[..., 0] + obs[..., 1] + obs[..., 2]).long() % N_ACTIONS


class Log:
    def __init__(self):
        self.logged = {}
        self.console_logger = logging.getLogger("faults")

    def log_stat(self, name, value, t_env):
        self.logged.setdefault(name, []).append((t_env, value))


@pytest.fixture
def build(host, monkeypatch, tmp_path):
    """``build(faults, batch_size_run=2)`` returns a supervised runner that is set up.

    Environment i has the seed i and, after n restarts, ``i + n * batch_size_run``. With keyed seeds, faults could not
    be assigned to environments.
    """
    started = []

    def make(faults=None, runner="supervised_parallel", env="battle", seed=0, **changes):
        monkeypatch.setitem(host.registries["env"], env, Battle)
        config = yaml.safe_load((host.config_dir / "default.yaml").read_text())
        folder = None if runner == "episode" else str(tmp_path)  # it plays in this process
        env_args = {"map_name": "field", "seed": seed, "folder": folder, "faults": faults or {}}
        config |= {"runner": runner, "env": env, "env_args": env_args, "device": "cpu", "batch_size_run": 2}
        config |= {"test_nepisode": 2, "runner_log_interval": 1}
        size = {**config, **changes}["batch_size_run"]
        monkeypatch.setattr(
            supervised_parallel_runner, "environment_seed", lambda seed, i, restart: seed + i + restart * size
        )
        runner = host.registries["runner"][runner](args=Namespace(**{**config, **changes}), logger=Log())
        started.append(runner)
        sizes = runner.get_env_info()
        runner.args.n_agents = sizes["n_agents"]
        scheme = {
            "state": {"vshape": sizes["state_shape"]},
            "obs": {"vshape": sizes["obs_shape"], "group": "agents"},
            "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
            "avail_actions": {"vshape": (N_ACTIONS,), "group": "agents", "dtype": torch.int},
            "terminated": {"vshape": (1,), "dtype": torch.uint8},
            "reward": {"vshape": (1,)},
        }
        preprocess = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}
        runner.setup(scheme=scheme, groups={"agents": N_AGENTS}, preprocess=preprocess, mac=Controller())
        return runner

    yield make
    for runner in started:
        runner.close_env()
    none_left(tmp_path)


@pytest.fixture
def undisturbed(build, host):
    """``undisturbed(seed)`` returns an episode without faults, played by the host's own episode runner."""

    def play(seed, episode=0):
        runner = build(runner="episode", seed=seed, batch_size_run=1)
        for _ in range(episode + 1):
            batch = runner.run()
        return batch

    return play


def processes(folder):
    """Return the process ids of all workers and games, also of ended ones."""
    files = [file for file in folder.iterdir() if file.name.isdigit()]
    return {int(file.name) for file in files} | {int(file.read_text()) for file in files}


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between open and read
        return False


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def none_left(folder, but=()):
    """Assert that soon no worker and no game is alive, except ``but``."""
    others = processes(folder) - set(but)
    try:
        wait_until(lambda: not any(alive(pid) for pid in others))
    finally:
        for pid in filter(alive, others):
            os.kill(pid, signal.SIGKILL)
