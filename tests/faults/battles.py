"""A battle with chosen faults and a game process that it never closes. Few imports, as every worker imports it."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

N_AGENTS, N_ACTIONS, LIMIT = 2, 3, 6
STEPS = (3, 5, 4, 2)  # of an episode; the index is seed % 4


class Poison:
    """Object that can be pickled, but not unpickled."""

    def __reduce__(self):
        return int, ("poison",)


class Battle:
    """Environment with observations ``[t, agent, seed, episode]``; step t = 1, 2, ... has reward t + seed.

    ``faults`` maps a seed, or ``every``, to ``[place, how]``. ``place`` is ``build``, ``reset``, ``step`` (the second
    one), ``later`` (the reset of the second episode) or a method's name; ``how`` is the name of a method below.
    ``folder`` gets a file for each worker: its name is the worker's process id, its content that of its game. Without a
    folder there is no game.
    """

    def __init__(self, map_name, seed, folder, faults, common_reward=True, reward_scalarisation="sum"):
        self.seed, self.fault = seed, faults.get(str(seed)) or faults.get("every")
        self.t, self.episode, self.folder = 0, -1, folder and Path(folder)
        if folder:
            self._start_game()
        self._go_wrong("build")

    def _start_game(self):
        # The game inherits descriptors, which must not keep the worker's pipes open.
        game = subprocess.Popen(["sleep", "1000"], close_fds=False)
        unfinished = self.folder / f"{os.getpid()}.tmp"
        unfinished.write_text(str(game.pid))
        unfinished.rename(self.folder / str(os.getpid()))

    def reset(self):
        self.t, self.episode = 0, self.episode + 1
        self._go_wrong("reset")
        if self.episode == 1:
            self._go_wrong("later")

    def step(self, actions):
        self.t += 1
        over = self.t == STEPS[self.seed % 4]
        outcome = self.get_obs(), float(self.t + self.seed), over, False, {"battle_won": over}
        if self.t == 2 and (instead := self._go_wrong("step")) is not None:
            return instead
        return outcome

    def _go_wrong(self, place):
        if self.fault and self.fault[0] == place:
            return getattr(self, self.fault[1])()

    def be_killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def be_killed_with_a_copy_left(self):
        copy = os.fork()
        if copy == 0:
            self.hang()
        (self.folder / str(copy)).write_text(str(copy))
        self.be_killed()

    def stop(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def exit(self):
        os._exit(0)

    def hang(self):
        if self.folder:
            (self.folder / f"{os.getpid()}.hanging").touch()
        time.sleep(1000)

    def go_wrong(self):
        raise ZeroDivisionError("two by nothing")

    def end_of_file(self):
        raise EOFError

    def refuse(self):
        from lolm_plugin.errors import ConfigError

        raise ConfigError("map_name=field is no map; set map_name to meadow.")

    def answer_what_cannot_be_sent(self):
        return self.get_obs(), 0.0, False, False, {"battle_won": lambda: False}

    def answer_what_cannot_be_received(self):
        return self.get_obs(), 0.0, False, False, {"battle_won": Poison()}

    def stop_while_answering(self):
        write = os.write

        def write_half(descriptor, data):
            write(descriptor, data[: len(data) // 2])
            self.stop()

        os.write = write_half

    def lose_its_game(self):
        return self.get_obs(), 0, True, False, {}

    def get_obs(self):
        return [np.array([self.t, agent, self.seed, self.episode], dtype=np.float32) for agent in range(N_AGENTS)]

    def get_state(self):
        return np.array([self.t, self.seed, 7], dtype=np.float32)

    def get_avail_actions(self):
        return [[1, 1, 1]] * N_AGENTS

    def get_env_info(self):
        self._go_wrong("get_env_info")
        sizes = {"state_shape": 3, "obs_shape": 4, "n_actions": N_ACTIONS, "n_agents": N_AGENTS}
        return {**sizes, "episode_limit": LIMIT}

    @property
    def episode_limit(self):
        return LIMIT

    def get_stats(self):
        raise ZeroDivisionError("as SMAC's before the first battle is over")

    def render(self):
        self._go_wrong("render")

    def save_replay(self):
        self._go_wrong("save_replay")

    def close(self):
        if self.folder:
            (self.folder / f"{os.getpid()}.closed").touch()


class Dice:
    """Environment that draws from the global generators."""

    def get_env_info(self):
        return random.random(), float(np.random.rand())
