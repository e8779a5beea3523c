"""The decision log has every decision of a test episode exactly once."""

import json
from collections import Counter

import pytest
import torch

from lolm_plugin.errors import ConfigError
from tests.learners.compare import probabilities

FORMS = {"dt2gs_mappo": {"attention", "subtask"}, "updet_mappo": {"attention"}, "rnn_mappo": set()}
COMMON = {"t_env", "test_episode", "step", "agent", "unit", "action", "probability", "entropy"}


def whole_episode(mac, batch, lengths, t_env=50):
    """Play as a runner does: each episode selects an action once more in the state after its last step."""
    mac.init_hidden(batch.batch_size)
    actions = {}
    for t in range(max(lengths) + 1):
        rows = [i for i, length in enumerate(lengths) if t <= length]
        chosen = mac.select_actions(batch, t, t_env, bs=rows, test_mode=True)
        actions |= {(row, t): chosen[i].tolist() for i, row in enumerate(rows)}
    return actions


@pytest.fixture
def logged(new_learner, tiny_args, play, tmp_path):
    """Return (lines, actions, batch, mac) of two test batches of an algorithm."""

    def run(algorithm):
        path = tmp_path / "decisions/file.jsonl"
        mac = new_learner(tiny_args({"decisions_file": str(path)}, algorithm=algorithm)).mac
        batch = play(mac, lengths=(4, 2, 3), unseen=0.5)
        assert not path.exists()  # training episodes are not logged
        actions = [whole_episode(mac, batch, (4, 2, 3)) for _ in range(2)]
        return [json.loads(line) for line in path.read_text().splitlines()], actions, batch, mac

    return run


@pytest.mark.parametrize("algorithm", FORMS)
def test_every_played_decision_has_a_line(logged, algorithm):
    lines, (actions, _), batch, mac = logged(algorithm)
    choices = (batch["avail_actions"] > 0).sum(-1) > 1
    lengths = (4, 2, 3)
    expected = Counter((e, t, a) for e in range(3) for t in range(lengths[e]) for a in range(2) if choices[e, t, a])
    for first in (0, 3):  # the numbers continue in the second batch
        written = Counter((line["test_episode"] - first, line["step"], line["agent"]) for line in lines)
        assert {key: n for key, n in written.items() if 0 <= key[0] < 3} == expected
    names = mac.layouts.observation.action_names()
    for line in lines[: len(lines) // 2]:
        assert set(line) == COMMON | FORMS[algorithm]
        assert line["action"] == names[actions[line["test_episode"], line["step"]][line["agent"]]]
        assert 0 < line["probability"] <= 1
        assert line["t_env"] == 50
        assert 0 <= line["entropy"] < 3


def test_attention_names_the_present_units(logged):
    lines, _, batch, mac = logged("updet_mappo")
    observed = mac.layouts.observation.decode(batch["obs"])
    for line in lines[: len(lines) // 2]:
        place = line["test_episode"], line["step"], line["agent"]
        other = 1 - line["agent"]
        there = {"self"} | ({f"ally {other}"} if observed.allies.present[place][0] else set())
        there |= {f"enemy {j}" for j in range(2) if observed.enemies.present[place][j]}
        assert set(line["attention"]) == there
        assert sum(line["attention"].values()) == pytest.approx(1, abs=0.001)


def test_a_language_models_decisions_are_logged(new_learner, tiny_args, play, tmp_path):
    path = tmp_path / "decisions.jsonl"
    mac = new_learner(tiny_args({"decisions_file": str(path)})).mac
    batch = play(mac, lengths=(2,))
    whole_episode(mac, batch, (2,))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines
    assert set(lines[0]) == COMMON
    assert lines[0]["unit"] in {"marine", "marauder", "stalker", "zealot", "zergling", "hydralisk"}


def test_sampled_tests_are_not_logged(new_learner, tiny_args, play, tmp_path):
    path = tmp_path / "decisions.jsonl"
    mac = new_learner(tiny_args({"decisions_file": str(path)})).mac
    batch = play(mac, lengths=(2,))
    mac.begin_test(sampled=True)
    whole_episode(mac, batch, (2,))
    assert not path.exists()
    mac.begin_test(sampled=False)
    whole_episode(mac, batch, (2,))
    assert path.read_text()


def test_nothing_is_logged_by_default(new_learner, tiny_args, play, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mac = new_learner(tiny_args(algorithm="updet_mappo")).mac
    whole_episode(mac, play(mac), (4, 2, 3))
    assert not list(tmp_path.iterdir())


def test_probability_and_entropy_match_the_policy(new_learner, tiny_args, play, tmp_path):
    path = tmp_path / "decisions.jsonl"
    mac = new_learner(tiny_args({"decisions_file": str(path)}, algorithm="updet_mappo")).mac
    batch = play(mac, lengths=(2,))
    whole_episode(mac, batch, (2,))
    chances = probabilities(mac, batch, 0)[0]
    for line in [json.loads(text) for text in path.read_text().splitlines()]:
        if line["step"] == 0:
            row = chances[line["agent"]]
            assert line["probability"] == pytest.approx(row.max().item(), abs=1e-3)
            assert line["entropy"] == pytest.approx(torch.distributions.Categorical(row).entropy().item(), abs=1e-3)


def test_a_file_that_cannot_be_written_raises_a_config_error(new_learner, tiny_args, play):
    mac = new_learner(tiny_args({"decisions_file": "/proc/nowhere/x.jsonl"}, algorithm="rnn_mappo")).mac
    with pytest.raises(ConfigError, match=r"decisions_file=/proc/nowhere/x.jsonl cannot be written"):
        whole_episode(mac, play(mac, lengths=(4, 2, 3)), (4, 2, 3))
