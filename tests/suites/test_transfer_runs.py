"""``transfer_from`` on a command line: what is transferred, what is new, and what the record contains."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lolm_plugin.configuration import experiment
from lolm_plugin.report import records
from tests.resume.runs import line, models, record, series, steps, train

NOTHING = 1e-30  # a learning rate that changes no weight
RATES = ("lr", "critic_lr")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Run a short training on the duel and return its folder."""
    folder = tmp_path_factory.mktemp("source")
    assert train(folder, *line("updet_mappo", "probe", "duel", "t_max=200")) == 0
    return folder


def transfer(folder, source, *updates, algorithm="updet_mappo"):
    return train(folder, *line(algorithm, "probe", "target", f"transfer_from={source}", *updates))


def test_policy_and_critic_are_transferred_and_training_restarts(source, tmp_path):
    assert transfer(tmp_path, models(source), "t_max=0", *(f"{key}={NOTHING}" for key in RATES)) == 0
    there, here = (
        run / str(steps(folder)[-1]) for run, folder in ((models(source), source), (models(tmp_path), tmp_path))
    )
    for name in ("actor", "critic"):
        old, new = (load_file(path / f"{name}.safetensors") for path in (there, here))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old), name
    assert steps(tmp_path)[0] < 50, "steps did not restart at 0"
    counts = load_file(here / "actor_optimiser.safetensors")
    assert max(float(value.max()) for key, value in counts.items() if key.endswith("step")) <= 4 * 4, "one update's"
    said = json.loads((record(tmp_path, 1) / "info.json").read_text())["transfer"]
    assert {part["name"]: part["fate"].split(":")[0] for part in said["parts"]} == {
        **dict.fromkeys(("actor", "critic", "value_normaliser"), "moved"),
        **dict.fromkeys(("actor_optimiser", "critic_optimiser"), "new"),
    }
    assert (said["source_map"], said["source_step"]) == ("duel", steps(source)[-1])


def test_a_critic_that_is_not_transferred_is_new(source, tmp_path):
    assert transfer(tmp_path, models(source), "t_max=0", f"critic_lr={NOTHING}", "transfer_critic=False") == 0
    old = load_file(models(source) / str(steps(source)[-1]) / "critic.safetensors")
    new = load_file(models(tmp_path) / str(steps(tmp_path)[-1]) / "critic.safetensors")
    assert any(not torch.equal(old[key], new[key]) for key in old)


def test_the_first_few_shot_test_equals_zero_shot(source, tmp_path):
    assert transfer(tmp_path / "few", record(source, 1), "t_max=100", "test_nepisode=32") == 0
    assert transfer(tmp_path / "zero", record(source, 1), "evaluate=True", "test_nepisode=32") == 0
    few, zero = (series(tmp_path / name, 1)["test_return_mean"] for name in ("few", "zero"))
    assert few[0][0] == zero[0][0] == 0
    assert few[1][0] == zero[1][0]
    kinds = {run.kind: run for run in records.read_all(tmp_path)}
    assert kinds.keys() == {"few_shot", "zero_shot"}
    assert all(run.source_map == "duel" for run in kinds.values())
    learned = experiment.settings(json.loads((record(source, 1) / "config.json").read_text()))
    assert all(run.source_settings == learned for run in kinds.values()), "a report needs the source's settings"


@pytest.mark.slow
def test_the_kl_is_off_unless_it_is_set(tmp_path):
    arguments = ("t_max=60", "kl.anneal_steps=1000000")
    assert train(tmp_path / "source", *line("lolm_mappo_tiny", "probe", "duel", *arguments)) == 0
    source = models(tmp_path / "source")
    assert any(series(tmp_path / "source", 1)["kl_coef"][1])
    assert transfer(tmp_path / "off", source, *arguments, algorithm="lolm_mappo_tiny") == 0
    assert not any(series(tmp_path / "off", 1)["kl_coef"][1])
    for asked in ("kl.enabled=True", "kl.reference=source"):
        assert transfer(tmp_path / asked, source, *arguments, asked, algorithm="lolm_mappo_tiny") == 0
        assert any(series(tmp_path / asked, 1)["kl_coef"][1])


def test_a_transfer_to_another_algorithm_is_refused(source, tmp_path, capsys):
    assert transfer(tmp_path, models(source), "t_max=100", algorithm="dt2gs_mappo") == 2
    said = capsys.readouterr().err
    assert (
        f"transfer_from={models(source)} was trained by updet_mappo (agent=updet) but this run is dt2gs_mappo" in said
    )


def test_a_policy_tied_to_its_map_is_refused(tmp_path, capsys):
    assert train(tmp_path / "source", *line("rnn_mappo", "probe", "duel", "t_max=60")) == 0
    source = models(tmp_path / "source")
    assert transfer(tmp_path / "target", source, "t_max=100", algorithm="rnn_mappo") == 2
    assert f"transfer_from={source} was trained on probe duel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        (["transfer_from=nowhere"], "transfer_from=nowhere is not a folder"),
        (["transfer_from=.", "checkpoint_path=."], "set only one of them"),
        (["transfer_from=."], "transfer_from=. has no checkpoint"),
        (["kl.reference=source"], "kl.reference=source cannot be used with mac=network_mac"),
    ],
)
def test_invalid_transfer_settings_are_refused(tmp_path, capsys, updates, said):
    assert train(tmp_path, *line("updet_mappo", "probe", "duel", *updates)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ([], "kl.reference=source has no source"),
        (["transfer_from=.", "kl.enabled=False"], "kl.reference=source has no effect with kl.enabled=False"),
    ],
)
def test_a_kl_without_source_is_refused(tmp_path, capsys, updates, said):
    assert train(tmp_path, *line("lolm_mappo_tiny", "probe", "duel", "kl.reference=source", *updates)) == 2
    assert said in capsys.readouterr().err


def test_the_printed_command_to_play_again_has_no_transfer(source, tmp_path, capsys):
    assert transfer(tmp_path, models(source), "t_max=60") == 0
    again = next(row for row in capsys.readouterr().out.splitlines() if "play it again" in row)
    assert "transfer_from" not in again
