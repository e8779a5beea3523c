"""An invalid configuration gives an error of one sentence, before anything slow is loaded."""

import re

import pytest

from lolm_plugin import registry
from lolm_plugin.commands import train
from lolm_plugin.configuration import schema
from lolm_plugin.configuration.config_check import apply_updates, check
from lolm_plugin.configuration.config_files import merge, plugin_config_dir, read, resolve
from lolm_plugin.configuration.updates import nested
from lolm_plugin.errors import ConfigError
from tests.algorithms import NETWORKS, controlled_by

ALGORITHMS = sorted(path.stem for path in (plugin_config_dir() / "algs").glob("*.yaml"))
ENVIRONMENTS = sorted((plugin_config_dir() / "envs").glob("*.yaml"))


@pytest.fixture
def configured(host_dir):
    """The final configuration of an algorithm on the probe after ``with`` updates."""

    def run(updates=None, alg="lolm_mappo_tiny"):
        return apply_updates(resolve(alg, "probe", host_dir), {"batch_size_run": 4, **(updates or {})}, host_dir)

    return run


@pytest.fixture
def yaml_file(tmp_path):
    """A user's algorithm file: lolm_mappo_tiny with some more lines."""

    def write(lines):
        file = tmp_path / "mine.yaml"
        file.write_text(f"extends: lolm_mappo_tiny\nname: mine\n{lines}")
        return str(file)

    return write


@pytest.mark.parametrize("given", [{}, {"batch_size": 4}, {"batch_size": 4, "buffer_size": 4}, {"batch_size": None}])
def test_an_update_learns_from_the_episodes_just_played(given, configured):
    config = configured(given)
    check(config)
    assert (config["batch_size"], config["buffer_size"]) == (4, 4)


def refused(action, *parts):
    """Assert that ``action`` raises a ConfigError of one sentence that contains all ``parts``."""
    with pytest.raises(ConfigError) as error:
        action()
    message = str(error.value)
    for part in parts:
        assert part in message
    assert len(re.findall(r"[.?](?:\s|$)", message)) == 1, message
    assert "\n" not in message


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_shipped_pair_of_files_passes(algorithm, environment, host_dir):
    task = {} if environment.stem != "gymma" else {"env_args": {"key": "lbforaging:Foraging-8x8-2p-3f-v3"}}
    config = apply_updates(resolve(algorithm, str(environment), host_dir), task, host_dir)
    if config["agent"] in registry.TRUNKS and not registry.ENVS[environment.stem].battles:
        refused(lambda: check(config), f"agent={config['agent']}", f"env={environment.stem}", "rnn_mappo")
        return
    check(config)
    assert (config["name"], config["env"]) == (algorithm, environment.stem)


def test_nothing_slow_is_loaded_to_check(fresh_python):
    program = (
        "import sys; from lolm_plugin.paths import BUNDLED;"
        "from lolm_plugin.configuration import config_check, config_files;"
        "resolved = config_files.resolve('lolm_mappo', 'smax', BUNDLED / 'config');"
        "config_check.check(config_check.apply_updates(resolved, {}, BUNDLED / 'config'));"
        "print(sorted({'jax', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    assert fresh_python(program) == "[]\n"


@pytest.mark.parametrize(
    ("updates", "key", "value"),
    [
        ({"t_max": 1e6}, "t_max", 1_000_000),
        ({"lr": 1}, "lr", 1.0),
        ({"use_cuda": True}, "use_cuda", True),
        ({"seed": 3}, "seed", 3),
        ({"hypergroup": "mine"}, "hypergroup", "mine"),
        ({"checkpoint_path": "results/models/x"}, "checkpoint_path", "results/models/x"),
        ({"entropy_target": "null"}, "entropy_target", None),  # as the yaml files write it
        ({"entropy_target": None}, "entropy_target", None),
    ],
)
def test_a_value_is_converted_to_its_keys_type(configured, updates, key, value):
    config = configured(updates)
    assert config[key] == value
    assert type(config[key]) is type(value)


def test_nested_updates_keep_the_other_keys(configured):
    config = configured({"llm": {"num_layers": 1}, "env_args": {"map_name": "duel"}})
    assert config["llm"] == {**configured()["llm"], "num_layers": 1}
    assert config["env_args"] == {**configured()["env_args"], "map_name": "duel"}


@pytest.mark.parametrize("fields", [[], ["x", "y"]])
def test_the_further_fields_are_a_list(configured, fields):
    config = configured({"entity": {"further_fields": fields}}, "updet_mappo")
    check(config)
    assert config["entity"]["further_fields"] == fields


@pytest.mark.parametrize("source", [None, "null"])
def test_a_choice_may_be_null(configured, source):
    assert configured({"prompt": {"source": source}})["prompt"]["source"] is None


@pytest.mark.parametrize(("gain", "value"), [(None, None), (1, 1.0), (0.01, 0.01)])
def test_the_initial_gain_is_null_or_a_number(configured, gain, value):
    taken = configured({"entity": {"init_gain": gain}}, "updet_mappo")["entity"]["init_gain"]
    assert (taken, type(taken)) == (value, type(value))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_lora_targets_may_be_a_word_or_a_list(configured, targets):
    assert configured({"lora": {"targets": targets}})["lora"]["targets"] == targets


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("alg", ["lolm_mappo_tiny", "lolm_mappo_smol"])
def test_a_key_that_may_be_null_takes_null_or_its_type(configured, layers, alg):
    assert configured({"llm": {"num_layers": layers}}, alg)["llm"]["num_layers"] == layers


@pytest.mark.parametrize(
    ("updates", "parts"),
    [
        ({"entropy_coeff": 0.1}, ("entropy_coeff on the command line is unknown", "did you mean entropy_coef?")),
        ({"llm": {"modell": "x"}}, ("llm.modell", "did you mean llm.model?")),
        ({"env_args": {"map_nam": "duel"}}, ("env_args.map_nam", "did you mean env_args.map_name?")),
        ({"llm": "tiny-llama"}, ("The key llm on the command line", "llm.")),
        ({"lr": {"head": 1}}, ("lr.head",)),
        ({"qqqqqqqqqqq": 1}, ("qqqqqqqqqqq", "config/default.yaml")),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(configured, updates, parts):
    refused(lambda: configured(updates), *parts)


@pytest.mark.parametrize(
    ("updates", "parts"),
    [
        ({"lr": "abc"}, ("lr=abc", "is not a number")),
        ({"lr": True}, ("lr=True", "is not a number")),
        ({"use_cuda": "Flase"}, ("use_cuda=Flase", "is not True or False")),
        ({"use_cuda": 1}, ("use_cuda=1", "is not True or False")),
        ({"t_max": 1.5}, ("t_max=1.5", "is not a whole number", "such as ")),
        ({"t_max": "1m"}, ("t_max=1m", "is not a whole number")),
        ({"epochs": True}, ("epochs=True", "is not a whole number")),
        ({"critic_type": [3]}, ("critic_type=[3]", "is not a text")),
        ({"critic_type": 3.5}, ("critic_type=3.5", "is a number to Sacred", "quote it twice: 'critic_type=\"...\"'")),
        ({"llm": {"token_budget": "big"}}, ("llm.token_budget=big", "is not a whole number")),
        ({"llm": {"num_layers": "four"}}, ("llm.num_layers=four",)),
        ({"env_args": {"shuffle_obs": "yes"}}, ("env_args.shuffle_obs=yes", "is not True or False")),
        ({"seed": "abc"}, ("seed=abc", "is not a whole number")),
        ({"seed": -1}, ("seed=-1",)),
        ({"entity": {"init_gain": "small"}}, ("entity.init_gain=small", "is not a number", "greater than 0, or null")),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(configured, updates, parts):
    refused(lambda: check(configured(updates)), *parts)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ("entropy_coeff: 0.1\n", ("entropy_coeff in ", "mine.yaml", "did you mean entropy_coef?")),
        ("t_max: soon\n", ("t_max=soon in ", "mine.yaml", "is not a whole number")),
        ("lr: {head: 1}\n", ("lr.head in ", "mine.yaml")),
        ("llm: tiny-llama\n", ("The key llm in ", "mine.yaml")),
    ],
)
def test_a_users_file_is_checked_like_the_command_line(configured, yaml_file, lines, parts):
    file = yaml_file(lines)
    refused(lambda: configured(alg=file), *parts)


def test_a_users_file_may_set_any_key_and_gets_its_type(configured, yaml_file):
    # 1e6 and 1e-1 are texts to yaml 1.1.
    config = configured(alg=yaml_file("t_max: 1e6\nlr: 1\neps_clip: 1e-1\nenv_args: {map_name: duel}\n"))
    assert config["env_args"]["map_name"] == "duel"
    assert (config["t_max"], type(config["t_max"]), config["eps_clip"]) == (1_000_000, int, 0.1)
    assert (config["lr"], type(config["lr"])) == (1.0, float)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"env_args": {"map_name": "nowhere"}}, ("env_args.map_name=nowhere", "retreat, approach, duel, target")),
        ({"env": "smax", "env_args": {"map_name": "MMM2"}}, ("env_args.map_name=MMM2", "medivac")),
        ({"common_reward": False}, ("common_reward=False", "env=probe", "set common_reward=True")),
        ({"env": "sc2", "mac": "basic_mac"}, ("runner=vector", "env=sc2", "set runner=parallel")),
        ({"env": "matrix"}, ("env=matrix", "no observation layout", "gymma, probe, sc2, sc2v2, smaclite, smax")),
        (
            {
                "env": "sc2",
                "bootstrap_time_limit": True,
                "runner": "supervised_parallel",
                "env_args": {"map_name": "3m"},
            },
            ("bootstrap_time_limit=True", "env=sc2", "set env_args.continuing_episode=True"),
        ),
        (
            {
                **{"env": "sc2v2", "bootstrap_time_limit": True, "runner": "supervised_parallel"},
                "env_args": {"map_name": "terran_5_vs_5"},
            },
            ("bootstrap_time_limit=True", "env=sc2v2", "smacv2_configs/terran_5_vs_5.yaml"),
        ),
        ({"env": "sc2", "env_args": {"map_name": "MMM3"}}, ("env_args.map_name=MMM3", "did you mean MMM?", "corridor")),
        (
            {"env": "sc2", "env_args": {"map_name": "3m", "obs_timestep_number": True}},
            ("env_args.obs_timestep_number=True", "env=sc2", "set env_args.obs_timestep_number=False"),
        ),
        ({"env": "smaclite", "env_args": {"map_name": "3m"}}, ("env_args.map_name=3m", "env=smaclite", "custom")),
        (
            {"env": "smaclite", "env_args": {"map_name": "custom"}},
            ("env_args.map_name=custom", "set env_args.map_file"),
        ),
        (
            {"env": "smaclite", "env_args": {"map_name": "MMM2", "map_file": "mine.json"}},
            ("env_args.map_file=mine.json", "set env_args.map_name=custom"),
        ),
        (
            {"env": "sc2v2", "env_args": {"map_name": "terran_5v5"}},
            ("env_args.map_name=terran_5v5", "did you mean terran_5_vs_5?"),
        ),
        (
            {"env": "sc2v2", "env_args": {"map_name": "zerg_5_vs_5", "time_limit": 99}},
            ("env_args.time_limit=99", "no effect", "leave env_args.time_limit=150"),
        ),
        ({"runner": "episode"}, ("batch_size_run=4", "runner=episode", "set batch_size_run=1")),
        ({"batch_size": 8}, ("batch_size=8", "batch_size_run=4", "leave batch_size out")),
        ({"batch_size": 2}, ("batch_size=2", "batch_size_run=4", "leave batch_size out")),
        ({"buffer_size": 8}, ("buffer_size=8", "batch_size_run=4", "leave buffer_size out")),
        ({"evaluate": True}, ("evaluate=True", "set checkpoint_path")),
        ({"save_replay": True}, ("save_replay=True", "set checkpoint_path")),
        ({"checkpoint_path": "no/such/folder"}, ("checkpoint_path=no/such/folder", "is not a folder")),
        ({"learner": "ppo_learner"}, ("learner=ppo_learner", "mac=prompt_mac", "mappo_learner")),
        ({"prompt": {"style": "haiku"}}, ("prompt.style=haiku", "paper", "compact")),
        ({"head": {"attack_keys": "own"}}, ("head.attack_keys=own", "shared")),
        ({"greedy_rule": "best"}, ("greedy_rule=best", "argmax, grouped")),
        ({"kl": {"direction": "up"}}, ("kl.direction=up", "forward, reverse")),
        ({"epochs": 0}, ("epochs=0", "greater than 0")),
        ({"minibatches": 0}, ("minibatches=0", "greater than 0")),
        ({"lora": {"rank": 0}}, ("lora.rank=0", "greater than 0")),
        ({"lora": {"alpha": -1}}, ("lora.alpha=-1", "greater than 0")),
        ({"kl": {"anneal_steps": 0}}, ("kl.anneal_steps=0", "greater than 0")),
        ({"llm": {"token_budget": 0}}, ("llm.token_budget=0", "greater than 0")),
        ({"eps_clip": 0.0}, ("eps_clip=0.0", "greater than 0")),
        ({"critic": {"width": 30}}, ("critic.width=30", "critic.heads=4", "set critic.width")),
        ({"critic": {"heads": 0}}, ("critic.heads=0", "greater than 0")),
        ({"critic": {"width": 0}}, ("critic.width=0", "greater than 0")),
        ({"llm": {"model": "no model"}}, ("llm.model=no model", "neither an existing folder nor a hub id")),
        ({"llm": {"train": "some"}}, ("llm.train=some", "lora, full")),
        ({"llm": {"train": "full"}}, ("llm.train=full", "kl.enabled=True", "set kl.enabled=False or llm.train=lora")),
        ({"agent": "gru"}, ("agent=gru", "mac=prompt_mac", "one of: llm")),
        ({"mac": "network_mac"}, ("agent=llm", "mac=network_mac", "updet")),
    ],
)
def test_conflicting_values_are_refused(configured, changes, parts):
    refused(lambda: check(merge(configured(), changes)), *parts)


@pytest.mark.parametrize(
    ("algorithm", "changes", "parts"),
    [
        ("updet_mappo", {"kl": {"enabled": True}}, ("kl.enabled=True", "mac=network_mac", "set kl.enabled=False")),
        ("updet_mappo", {"obs_agent_id": True}, ("obs_agent_id=True", "agent=updet", "set obs_agent_id=False")),
        (
            "dt2gs_mappo",
            {"obs_last_action": True},
            ("obs_last_action=True", "agent=dt2gs", "set obs_last_action=False"),
        ),
        ("updet_mappo", {"mac": "prompt_mac"}, ("agent=updet", "mac=prompt_mac", "one of: llm")),
        ("updet_mappo", {"agent": "llm"}, ("agent=llm", "mac=network_mac", "gru", "dt2gs")),
        ("updet_mappo", {"agent": "rnn"}, ("agent=rnn", "mac=network_mac")),
        ("updet_mappo", {"critic_type": "cv_critic"}, ("critic_type=cv_critic", "updet_critic", "mlp_critic")),
        ("updet_mappo", {"entity": {"heal_mode": "self"}}, ("entity.heal_mode=self", "ally_tokens, ignore")),
        (
            "asn_attention_mappo",
            {"asn_attention": {"combine": "sum"}},
            ("asn_attention.combine=sum", "hadamard, inner"),
        ),
        ("dt2gs_mappo", {"dt2gs": {"noise_mode": "new"}}, ("dt2gs.noise_mode=new", "stored, frozen, redraw")),
        (
            "updet_mappo",
            {"entity": {"further_fields": "x"}},
            ("entity.further_fields=x", "list", "cooldown", "such as"),
        ),
        ("updet_mappo", {"entity": {"further_fields": ["z"]}}, ("entity.further_fields=['z']", "cooldown")),
        ("updet_mappo", {"entity": {"further_fields": [3]}}, ("entity.further_fields=[3]", "cooldown")),
        ("updet_mappo", {"critic_type": "updet_critic", "env": "gymma"}, ("agent=updet", "env=gymma", "rnn_mappo")),
        ("rnn_mappo", {"critic_type": "updet_critic", "env": "matrix"}, ("mac=network_mac", "env=matrix", "layout")),
        ("rnn_mappo", {"learner": "ppo_learner"}, ("learner=ppo_learner", "mac=network_mac", "mappo_learner")),
        ("rnn_mappo", {"action_selector": "soft_policies"}, ("action_selector=soft_policies", "keyed")),
    ],
)
def test_settings_that_do_not_fit_a_network_are_refused(configured, algorithm, changes, parts):
    refused(lambda: check(merge(configured(alg=algorithm), changes)), *parts)


def test_rules_of_language_models_do_not_apply_to_networks(configured):
    changes = {"llm": {"model": "no model", "train": "some"}, "prompt": {"style": "haiku"}, "head": {"attack_keys": ""}}
    check(merge(configured(alg="updet_mappo"), changes))
    check(merge(configured(alg="rnn_mappo"), {"obs_last_action": True, "critic": {"width": 30}}))


@pytest.mark.parametrize("critic", sorted(registry.ENTRIES["critic"]))
@pytest.mark.parametrize("algorithm", ["updet_mappo", "rnn_mappo", "lolm_mappo_tiny"])
def test_every_policy_may_have_every_critic(configured, algorithm, critic):
    config, section = configured({"critic_type": critic}, algorithm), critic.removesuffix("_critic")
    if section in registry.TRUNKS and section not in config:
        with pytest.raises(ConfigError, match=f"critic_type={critic} has no section {section}:"):
            check(config)
    else:
        check(config)


def test_language_models_are_tested_by_the_grouped_rule_and_baselines_as_published(configured):
    rules = {name: configured(alg=name)["greedy_rule"] for name in (*controlled_by("prompt_mac"), *NETWORKS)}
    assert {name for name, rule in rules.items() if rule == "grouped"} == set(controlled_by("prompt_mac"))


def test_a_checkpoint_from_before_the_greedy_rule_can_be_resumed(configured):
    config = configured()
    del config["greedy_rule"]
    check(config)


def test_a_random_model_may_be_trained_by_an_adapter_and_a_pretrained_one_in_full(configured):
    check(configured({"llm": {"train": "lora"}}, "transformer_mappo"))
    check(configured({"llm": {"train": "full"}, "kl": {"enabled": False}}))


def test_a_policy_on_an_environment_without_a_layout_is_refused_before_it_is_built(configured):
    config = merge(configured(), {"env": "matrixgame", "runner": "parallel", "env_args": {"map_name": "penalty"}})
    refused(lambda: check(config), "env=matrixgame", "probe", "smax")


def test_a_folder_without_steps_is_not_a_checkpoint(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").write_text("a file, not a folder")
    line = ["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none", "with", f"checkpoint_path={tmp_path}"]
    assert train.main(["main.py", *line]) == 2
    assert f"checkpoint_path={tmp_path} holds no checkpoint" in capsys.readouterr().err


def test_a_folder_with_a_step_is_a_checkpoint(configured, tmp_path):
    (tmp_path / "6400").mkdir()
    check(merge(configured(), {"checkpoint_path": str(tmp_path), "evaluate": True}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"entropy_target": None, "entropy_target_end": 0.1}, ("entropy_target_end=0.1", "set entropy_target as well")),
        (
            {"entropy_target": 1.0, "entropy_target_end": None, "entropy_coef_end": 0.0},
            ("entropy_coef_end=0.0", "entropy_target=1.0", "set one of them to null"),
        ),
        ({"entropy_target": -1.0}, ("entropy_target=-1.0", "out of range")),
    ],
)
def test_contradictory_entropy_settings_are_refused(configured, changes, parts):
    refused(lambda: check(merge(configured(), changes)), *parts)


def test_an_advantage_floor_needs_normalised_values(configured):
    changes = {"advantage_floor": 0.2, "normalise_values": False}
    refused(lambda: check(merge(configured(), changes)), "advantage_floor=0.2", "normalise_values=True")
    check(merge(configured(), {"advantage_floor": 0.0, "normalise_values": False}))


def test_our_rules_do_not_apply_to_the_hosts_algorithms(configured):
    theirs = {"mac": "basic_mac", "learner": "q_learner", "runner": "episode", "env": "gymma"}
    config = merge(configured(), {**theirs, "batch_size_run": 1, "prompt": {"style": "haiku"}, "common_reward": False})
    check(config)
    for section in ("prompt", "head", "kl", "llm", "lora", "critic"):
        config.pop(section)
    check(config)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ("learner", ("has no learner", "--config")),
        ("mac", ("has no mac",)),
        ("env_args", ("has no env_args",)),
    ],
)
def test_a_key_that_a_users_file_lacks_is_named(configured, missing, parts):
    config = {key: value for key, value in configured().items() if key != missing}
    refused(lambda: check(config), *parts)


@pytest.mark.parametrize("task", [[[1], [2]], {"a": 1}, 1.5])
def test_a_task_that_is_not_a_name_is_refused(configured, task):
    refused(lambda: check({**configured(), "env_args": {"map_name": task}}), "env_args.map_name=", "is not a name")


def test_env_args_without_a_task_are_refused(configured):
    refused(lambda: check({**configured(), "env_args": {"seed": None}}), "env_args names no task", "env_args.map_name")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"gamma": 2.0}, "gamma=2.0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"critic": {"layers": 0}}, "critic.layers=0"),
        ({"torch_threads": -1}, "torch_threads=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"test_nepisode": 0}, "test_nepisode=0"),
        ({"critic_minibatches": 0}, "critic_minibatches=0"),
        ({"microbatch": 0}, "microbatch=0"),
        ({"entity": {"init_gain": 0.0}}, "entity.init_gain=0.0"),
        ({"gru": {"width": 0}}, "gru.width=0"),
        ({"dt2gs": {"temperature": 0.0}}, "dt2gs.temperature=0.0"),
        ({"dt2gs": {"reconstruction_coef": -1.0}}, "dt2gs.reconstruction_coef=-1.0"),
        ({"dt2gs": {"subtask_kl_coef": -1.0}}, "dt2gs.subtask_kl_coef=-1.0"),
        ({"optim_eps": -1.0}, "optim_eps=-1.0"),
        ({"log_interval": -1}, "log_interval=-1"),
        ({"load_step": -1}, "load_step=-1"),
        ({"critic": {"width": 10**9}}, "critic.width=1000000000"),
        ({"worker_timeout": 1e300}, "worker_timeout=1e+300"),
        ({"torch_threads": 2**40}, "torch_threads=1099511627776"),
    ],
)
def test_values_out_of_range_are_refused(configured, changes, part):
    refused(lambda: check(merge(configured(), changes)), part, "out of range")


NUMBERS = sorted(
    f"{section}.{key}"
    for section in ("updet", "asn_attention", "dt2gs", "gru")
    for key, value in read(plugin_config_dir() / "default.yaml")[section].items()
    if isinstance(value, int | float) and not isinstance(value, bool)
)


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_of_a_networks_shape_has_a_range(configured, key):
    section, name = key.split(".")
    refused(lambda: check(merge(configured(), {section: {name: -1}})), f"{key}=-1", "out of range")


@pytest.mark.parametrize(("old", "new"), schema.RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new, configured):
    with pytest.raises(ConfigError, match=f"{old} .* it is now named {new}"):
        configured(nested({old: 1}, "here"))
    assert new in schema.FIELDS


@pytest.mark.parametrize("old", schema.REMOVED)
def test_a_removed_key_is_refused(old, configured):
    with pytest.raises(ConfigError, match=f"{old} .* it no longer exists; leave it out"):
        configured(nested({old: "torch"}, "here"))
    assert old not in schema.FIELDS
