"""Tasks of gymma on the real command line: described by us, by a user, or by no one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.commands import train as training

ROOT = Path(__file__).parents[2]
# Two agents in a corridor must be in the same cell. This file is all that a user has to write.
CORRIDOR = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Tuple

from lolm_plugin.observations.description import Description, Entities, Number, Offset


class Corridor(gymnasium.Env):
    n_agents = 2
    observation_space = Tuple([Box(0, 9, (2,), np.float32)] * 2)
    action_space = Tuple([Discrete(3)] * 2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.integers(10, size=2)
        return self.seen(), {}

    def step(self, actions):
        self.at = np.clip(self.at + np.array([0, -1, 1])[list(actions)], 0, 9)
        met = self.at[0] == self.at[1]
        return self.seen(), [float(met) / 2] * 2, bool(met), False, {}

    def seen(self):
        return tuple(np.array(pair, np.float32) for pair in (self.at, self.at[::-1]))


gymnasium.register("Corridor-v0", entry_point=Corridor)


def describe(env_args, n_agents, n_actions):
    offset = Offset(("east", "west", "north", "south"), x=1, y=0, low=0, high=9, decimals=0, origin=(0, 0))
    return Description(
        env="gymma",
        map_name=env_args["key"],
        size=2,
        n_agents=n_agents,
        task="a corridor of 10 cells",
        agent="walker",
        goal="Be in one cell.",
        fields=(Number("cell", at=0, high=9, decimals=0),),
        entities=(Entities("walker", (0,), (offset, Number("cell", at=1, high=9, decimals=0)), skips_self=True),),
        actions=("wait", "west", "east"),
    )
"""
OWN, FORAGING = (f"env_args.key={key}" for key in ("corridor:Corridor-v0", "lbforaging:Foraging-8x8-2p-3f-v3"))
SMALL = ("batch_size_run=2", "test_nepisode=2", "test_interval=1000", "seed=1")
LINE = (str(ROOT / "main.py"), "--config=lolm_mappo_tiny", "--env-config=gymma", "--epymarl=none", "with", *SMALL)


def train(folder, *settings):
    return subprocess.run(
        [sys.executable, *LINE, *settings],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def prompt(folder):
    (record,) = (folder / "results/sacred").rglob("prompt.txt")
    return record.read_text()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corridor.py").write_text(CORRIDOR)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lbforaging:Foraging-8x8-2p-3f-v3", "food 0:"),
        pytest.param("rware:rware-tiny-2ag-v2", "goal 1:", marks=pytest.mark.slow),
        pytest.param("pz-mpe-simple-spread-v3", "landmark 2:", marks=pytest.mark.slow),
    ],
)
def test_the_tasks_we_describe_train(key, words, tmp_path):
    done = train(tmp_path, f"env_args.key={key}", "env_args.time_limit=10", "t_max=40")
    assert done.returncode == 0, done.stdout[-3000:]
    (metrics,) = (tmp_path / "results/sacred").rglob("metrics.json")
    ratios = json.loads(metrics.read_text())["ratio_epoch0"]["values"]
    assert ratios == pytest.approx([1.0] * len(ratios), abs=1e-3)
    assert words in prompt(tmp_path)


def test_a_task_is_added_with_only_a_description(folder):
    own = ("env_args.key=corridor:Corridor-v0", "layout.description=corridor:describe")
    done = train(folder, *own, "env_args.time_limit=10", "t_max=40", "decisions_file=decisions.jsonl")
    assert done.returncode == 0, done.stdout[-3000:]
    text = prompt(folder)
    assert text.startswith(
        "A corridor of 10 cells. Pick one action for your walker.\nGoal: Be in one cell.\nYou: cell "
    )
    assert "\nwalker 1:" in text
    assert "\nActions: wait, west, east\nBest:" in text
    assert '"unit": "walker"' in (folder / "decisions.jsonl").read_text()


@pytest.mark.slow
def test_a_task_without_a_description_is_reported(folder):
    done = train(folder, "env_args.key=corridor:Corridor-v0", "env_args.time_limit=10", "t_max=40")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "no description of this task is known, so this one is generated from its observation space" in done.stdout
    assert "The task corridor:Corridor-v0, which nobody has described" in prompt(folder)
    assert "You: number 0 " in prompt(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((OWN, "layout.description=corridor"), "layout.description=corridor names no"),
        ((OWN, "layout.description=corridor:no"), "layout.description=corridor:no cannot"),
        (("env_args.key=CartPole-v1",), "env_args.key=CartPole-v1 has one agent"),
        ((FORAGING, "prompt.source=written"), "prompt.source=written cannot be"),
        ((FORAGING, "prompt.source=poems"), "prompt.source=poems is not a choice"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(settings, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert training.main([*LINE, *settings]) == 2
    assert f"error: {words}" in capsys.readouterr().err
    assert not (folder / "results").exists()
