"""A tiny environment, controller and learner with known answers."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from lolm_plugin.host import Host

N_AGENTS, N_ACTIONS, LIMIT = 2, 3, 4


def episode_length(seed):
    """Return 2, 3 or 4 steps. Episodes of 4 steps end at the time limit, the others terminate."""
    return 2 + seed % 3


class FakeEnv:
    """Environment with observations ``[t, agent, seed]`` and state ``[t, seed, 7, 7, 7]``; step t has reward t + 1."""

    def __init__(self, map_name, seed, common_reward, reward_scalarisation):
        assert reward_scalarisation == "sum"
        self.n_agents, self.episode_limit = N_AGENTS, LIMIT
        self.map_name, self.seed, self.common_reward = map_name, seed, common_reward
        self.actions, self.t = [], 0

    def reset(self):
        self.t = 0

    def step(self, actions):
        self.actions.append([int(action) for action in actions])
        self.t += 1
        over = self.t == episode_length(self.seed)
        cut = over and self.t == LIMIT
        info = {"battle_won": self.seed % 2 == 0, "won_twice": 2} if over else {"battle_won": 9}
        if cut and self.map_name == "gymnasium":  # reports the time limit only by ``truncated``
            info = {"battle_won": False}
        elif cut:
            info = {"battle_won": False, "episode_limit": True}
        reward = float(self.t) if self.common_reward else np.array([self.t, -2.0 * self.t])
        return self.get_obs(), reward, over and not cut, cut, info

    def get_obs(self):
        there = N_AGENTS - (self.map_name == "left" and self.t == 1)
        return [np.array([self.t, agent, self.seed], dtype=np.float32) for agent in range(there)]

    def get_state(self):
        return np.array([self.t, self.seed, 7, 7, 7], dtype=np.float32)

    def get_avail_actions(self):
        if self.map_name == "masked" and self.t == 1:
            return [[1, 1, 0], [0, 0, 0]]
        return [[1, 1, 0], [1, 1, self.t % 2]]

    def get_env_info(self):
        return {
            "state_shape": 5,
            "obs_shape": 3,
            "n_actions": N_ACTIONS,
            "n_agents": N_AGENTS,
            "episode_limit": LIMIT,
        }

    def get_stats(self):
        return {}

    def save_replay(self):
        Path("replay").write_text("saved")

    def render(self):
        pass

    def close(self):
        pass


class FakeMAC:
    """Controller that picks action ``(t + agent) % 3`` and records its calls."""

    def __init__(self, scheme, groups, args):
        self.scheme, self.groups, self.args = scheme, groups, args
        self.action_selector = SimpleNamespace(epsilon=0.25)
        self.calls, self.hidden, self.sampled = [], [], False

    def begin_test(self, sampled):
        self.sampled = sampled

    def init_hidden(self, batch_size):
        self.hidden.append(batch_size)

    def select_actions(self, ep_batch, t_ep, t_env, bs=slice(None), test_mode=False):
        rows = list(range(ep_batch.batch_size))[bs] if isinstance(bs, slice) else list(bs)
        assert (ep_batch["obs"][rows, t_ep, :, 0] == t_ep).all(), "must see the step it acts in"
        self.calls.append({"t_ep": t_ep, "t_env": t_env, "rows": rows, "test_mode": test_mode, "sampled": self.sampled})
        return torch.tensor([[(t_ep + agent) % N_ACTIONS for agent in range(N_AGENTS)]] * len(rows))


class FakeLearner:
    """Learner that counts its training steps; the count is its only weight."""

    def __init__(self, mac, scheme, logger, args):
        self.mac, self.scheme, self.logger, self.args = mac, scheme, logger, args
        self.steps, self.trained = 0, []

    def train(self, batch, t_env, episode):
        self.steps += 1
        self.trained.append((batch, t_env, episode))
        self.logger.log_stat("loss", 1.0 / self.steps, t_env)

    def save_models(self, path):
        Path(path, "weights.json").write_text(json.dumps(self.steps))

    def load_models(self, path):
        self.steps = json.loads(Path(path, "weights.json").read_text())

    def cuda(self):
        pass


class Scalars:
    """Logger for runners, or Sacred's run object: collects ``{name: [(t_env, value)]}``."""

    def __init__(self):
        self.logged = {}
        self.info = {}
        self.console_logger = logging.getLogger("contract")

    def log_stat(self, name, value, t_env):
        self.logged.setdefault(name, []).append((t_env, value))

    def log_scalar(self, name, value, step):
        self.log_stat(name, value, step)


def settings(host: Host, **changes):
    """Return the host's default configuration for a run of the fakes, with ``changes``."""
    config = yaml.safe_load((host.config_dir / "default.yaml").read_text())
    config.update(
        name="fake",
        seed=1,
        env="fake",
        env_args={"map_name": "field", "seed": 1},
        mac="fake",
        learner="fake",
        use_cuda=False,
        test_nepisode=2,
        batch_size=2,
        buffer_size=2,
        device="cpu",
    )
    return {**config, **changes}
