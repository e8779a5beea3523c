"""Runs on many maps through the real command line: series of each map, resume, transfer, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lolm_plugin import maps
from lolm_plugin.commands import lolm
from lolm_plugin.commands import train as training
from lolm_plugin.configuration import updates
from lolm_plugin.watch import record as records
from tests.resume.runs import line, models, record, series, steps, train
from tests.resume.test_resume import check_equal, until

CURRICULUM = "{retreat: [1, 0], target: [0, 1], approach: 1}"
QUICK = ("epochs=2", "batch_size_run=32", "test_interval=100")
SETTINGS = (
    *QUICK,
    "t_max=160",
    "test_maps=[duel]",
    "save_model_interval=50",
    "test_maps_nepisode=5",
    "test_maps_between=3",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a run on three maps with one to test on."""
    folder = tmp_path_factory.mktemp("many") / "run"
    assert train(folder, *line("lolm_mappo_tiny", "probe", CURRICULUM, *SETTINGS)) == 0
    return folder


def test_series_of_each_map_and_their_mean(folder):
    logged = series(folder, 1)
    for prefix, names in (("test", ("approach", "retreat", "target")), ("held_out", ("duel",))):
        for name in ("return", "battle_won", "ep_length"):
            tested, mean = logged[f"{prefix}_{name}_mean"]
            each = [logged[f"{prefix}_{name}_mean/{of_map}"] for of_map in names]
            assert [of_map[0] for of_map in each] == [tested] * len(names)
            np.testing.assert_allclose(mean, np.mean([of_map[1] for of_map in each], axis=0))
    assert len(set(logged["held_out_return_mean"][1])) > 1  # the policy that learns plays them
    *earlier, last = logged["held_out_ep_length_mean"][1]
    for lengths, battles in ((np.array(earlier), 3), (last, 5)):  # a mean over so many battles of whole steps
        np.testing.assert_allclose(lengths * battles, np.round(lengths * battles), atol=1e-9)
        assert np.any(lengths % 1)  # a whole mean would fit every number of battles
    np.testing.assert_allclose(logged["ratio_epoch0"][1], 1, atol=1e-4)
    assert logged["return_mean/target"][0][0] > logged["return_mean/retreat"][0][0]  # the weight of target starts at 0
    facts = json.loads((record(folder, 1) / "config.json").read_text())
    assert facts["env_args"]["map_name"] == ["retreat", "target", "approach"]
    assert facts["map_weights"] == [[1, 0], [0, 1], 1]
    kept = records.read(record(folder, 1) / "battles/best.json")
    assert (kept.map, len(kept.battles)) == ("target", 2)  # the map with the shortest name
    agent = kept.battles[0].agents[0]
    assert all(column[0] is not None for column in (agent.policy, agent.reference, agent.value))


def test_a_resumed_run_is_bitwise_equal(folder, tmp_path):
    copy = until(tmp_path / "run", folder, steps(folder)[1])
    assert train(copy, "--resume", str(models(copy)), "--epymarl=none") == 0
    check_equal((copy, 2), (folder, 1))


def test_transfer_to_one_map_and_from_one_map_to_many(folder, tmp_path):
    few = (*QUICK, "t_max=40", "test_nepisode=4")
    once = tmp_path / "one"
    assert train(once, *line("lolm_mappo_tiny", "probe", "duel", *few, f"transfer_from={models(folder)}")) == 0
    facts = json.loads((record(once, 1) / "info.json").read_text())["transfer"]
    assert facts["source_map"] == "retreat+target+approach"
    many = tmp_path / "many"
    arguments = line("lolm_mappo_tiny", "probe", "[target,retreat]", *few, f"transfer_from={models(once)}")
    assert train(many, *arguments) == 0
    assert "test_return_mean/target" in series(many, 1)
    swapped = tmp_path / "swapped"  # the order in which maps are written changes nothing
    assert train(swapped, *[word.replace("[target,retreat]", "[retreat,target]") for word in arguments]) == 0
    assert series(many, 1) == series(swapped, 1)


def test_a_list_of_one_map_is_that_map():
    for word in ("[3m]", "{3m: 2}", "['3m']", "{3m: [1, 0]}"):
        assert updates.parse([f"env_args.map_name={word}"]) == updates.parse(["env_args.map_name=3m"])


def test_maps_are_drawn_by_their_weights_and_never_with_weight_0():
    args = SimpleNamespace(
        env_args={"map_name": ["8m", "3m", "5m"]}, map_weights=[[0, 1], 2, [1, 0]], seed=1, t_max=100
    )
    listed = maps.training_maps(args)
    assert [each.name for each in listed] == ["3m", "5m", "8m"]
    for t_env, shares in ((0, (2 / 3, 1 / 3, 0)), (50, (2 / 3, 1 / 6, 1 / 6)), (200, (2 / 3, 0, 1 / 3))):
        counts = np.array(maps.draw_counts(listed, 3000, args, t_env))
        assert counts.sum() == 3000
        np.testing.assert_allclose(counts / 3000, shares, atol=0.03)
        assert not counts[np.array(shares) == 0].any()
    assert maps.draw_counts(listed, 16, args, 1) != maps.draw_counts(listed, 16, args, 2)


REFUSED = {
    "rnn_mappo env_args.map_name=[3m,5m]": "agent=gru, whose layers have the fixed sizes of one map",
    "rnn_mappo test_maps=[5m]": "test_maps=['5m'] cannot be used with agent=gru",
    "updet_mappo env_args.map_name=[3m,5m] critic_type=mlp_critic": "set critic_type=transformer_critic",
    "updet_mappo env_args.map_name=[3m,5m] runner=parallel": "set runner=supervised_parallel",
    "updet_mappo env_args.map_name=[3m,3m]": "has 3m twice",
    "updet_mappo env_args.map_name=[]": "is not a list of 1 to 64 maps",
    "updet_mappo env_args.map_name=[3m,[5m]]": "is not a list of 1 to 64 maps",
    "updet_mappo env_args.map_name=[3m,9x]": "9x",
    "updet_mappo env_args.map_name={3m:|-1,5m:|1}": "The weight -1 of 3m",
    "updet_mappo env_args.map_name={3m:|[0,1],5m:|[0,1]}": "are all 0 at the start",
    "updet_mappo env_args.map_name={3m:|many,5m:|1}": "The weight many of 3m",
    "updet_mappo map_weights=[1,2]": "has no effect with one map",
    "updet_mappo env_args.map_name=[3m,5m] map_weights=[1]": "not one weight for each of 3m+5m",
    "updet_mappo env_args.map_name=[3m,5m] test_maps=[5m]": "test_maps has 5m",
    "updet_mappo test_maps=[9x]": "9x",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    algorithm, *given = (word.replace("|", " ") for word in words.split())
    assert (
        training.main(["main.py", f"--config={algorithm}", "--env-config=smax", "--epymarl=none", "with", *given]) == 2
    )
    said = capfd.readouterr().err
    assert REFUSED[words] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["prompt", "doctor", "watch"])
def test_commands_for_one_map_refuse_several(command, folder, capfd):
    run = [str(models(folder))] if command == "watch" else ["--config=lolm_mappo_tiny", "--env-config=probe"]
    assert lolm.main(["lolm", command, *run, "--epymarl=none", "with", "env_args.map_name=[target,duel]"]) == 2
    assert f"lolm {command} takes one map, but env_args.map_name has target+duel" in capfd.readouterr().err
