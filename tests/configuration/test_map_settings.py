"""Effects of maps, ablations and task names on the resolved configuration."""

import pytest

from lolm_plugin.configuration.config_check import apply_updates
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, resolve
from lolm_plugin.errors import ConfigError

ALGORITHMS = sorted(path.stem for path in (plugin_config_dir() / "algs").glob("*.yaml"))


def test_the_map_sets_the_budget_of_the_paper_and_the_command_line_overrides_it(host_dir):
    def configured(**updates):
        resolved = resolve("lolm_mappo", "smax", host_dir)
        return apply_updates(resolved, {"env_args": {"map_name": "3s5z_vs_3s6z"}, **updates}, host_dir)

    assert (configured()["t_max"], configured()["kl"]["anneal_steps"]) == (10_000_000, 5_000_000)
    mine = configured(t_max=99)
    assert (mine["t_max"], mine["kl"]["anneal_steps"]) == (99, 5_000_000)
    assert configured()["kl"]["direction"] == "forward"


@pytest.mark.parametrize("game_map", ["3m", "3s5z_vs_3s6z"])
def test_all_algorithms_get_equally_many_steps_on_a_map(host_dir, game_map):
    sized_for_a_cpu = {"lolm_mappo_smol", "lolm_mappo_tiny"}
    updates = {"env_args": {"map_name": game_map}}
    steps = {
        apply_updates(resolve(algorithm, "smax", host_dir), updates, host_dir)["t_max"]
        for algorithm in set(ALGORITHMS) - sized_for_a_cpu
    }
    assert len(steps) == 1


def test_an_ablation_differs_from_the_method_only_in_the_ablated_keys(host_dir):
    def settings(algorithm):
        return flatten(apply_updates(resolve(algorithm, "smax", host_dir), {}, host_dir))

    method = settings("lolm_mappo")
    for algorithm, changes in {
        "lolm_mappo_no_kl": {"kl.enabled": False},
        "lolm_mappo_static_prompt": {"prompt.dynamic": False},
        "transformer_mappo": {"llm.pretrained": False, "llm.train": "full", "kl.enabled": False},
    }.items():
        assert settings(algorithm) == {**method, **changes, "name": algorithm}


@pytest.mark.parametrize(
    ("update", "value"),
    [
        ({"difficulty": 7}, "7"),
        ({"map_name": 25}, "25"),
        ({"game_version": "4.10.0"}, "4.10.0"),
        ({"game_version": None}, None),
        ({"step_mul": 3}, 3),
    ],
)
def test_names_of_digits_are_texts(host_dir, update, value):
    resolved = resolve("lolm_mappo", str(plugin_config_dir() / "envs/sc2.yaml"), host_dir)
    config = apply_updates(resolved, {"env_args": update}, host_dir)
    assert config["env_args"][next(iter(update))] == value


def test_a_game_version_read_as_a_number_is_refused_with_the_correct_form(host_dir):
    resolved = resolve("lolm_mappo", str(plugin_config_dir() / "envs/sc2.yaml"), host_dir)
    assert apply_updates(resolved, {}, host_dir)["env_args"]["game_version"] is None
    with pytest.raises(ConfigError, match=r"env_args.game_version=4.1 .* quote it twice: 'env_args.game_version="):
        apply_updates(resolved, {"env_args": {"game_version": 4.1}}, host_dir)
