"""``preset`` and ``learner_preset``: their priority, their errors, and the shipped ones."""

import pytest
import yaml

from lolm_plugin.configuration import command_line, config_files
from lolm_plugin.configuration.config_check import apply_updates, check
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read, resolve, stack
from lolm_plugin.errors import ConfigError

LEARNERS = sorted(path.stem for path in (plugin_config_dir() / "learners").glob("*.yaml"))
PRESETS = sorted((plugin_config_dir() / "presets").glob("*.yaml"))
BASELINES = ("updet_mappo", "updet_paper", "asn_attention_mappo", "dt2gs_mappo")


@pytest.fixture
def configured(host_dir):
    """The final configuration of an algorithm after ``with`` updates, on SMAX's 3m."""

    def run(algorithm, updates=None):
        return apply_updates(resolve(str(algorithm), "smax", host_dir), updates or {}, host_dir)

    return run


@pytest.fixture
def users_file(tmp_path):
    """A user's algorithm file."""

    def write(text):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return file

    return write


def notes(algorithm, updates, host_dir):
    resolved = resolve(str(algorithm), "smax", host_dir)
    return command_line.from_files(stack(resolved, updates), apply_updates(resolved, updates, host_dir))


# Priority


def test_lolm_mappo_as_published_is_a_preset_of_it_and_of_its_ablations(configured):
    default, published = configured("lolm_mappo"), configured("lolm_mappo", {"preset": "reference"})
    assert (default["head"]["features"], default["head"]["attack_keys"]) == ("normalised", "entity")
    assert (published["head"]["features"], published["head"]["attack_keys"]) == ("raw", "shared")
    assert (published["head_lr"], published["entropy_target"], published["minibatches"]) == (0.0001, None, 1)
    for ablation, section, key in (
        ("lolm_mappo_no_kl", "kl", "enabled"),
        ("lolm_mappo_static_prompt", "prompt", "dynamic"),
        ("transformer_mappo", "llm", "pretrained"),
    ):
        config = flatten(configured(ablation, {"preset": "reference"}))
        differing = {name for name, value in flatten(published).items() if config[name] != value}
        assert f"{section}.{key}" in differing
        assert differing <= {f"{section}.{key}", "name", "llm.train", "kl.enabled"}
    entity = configured("lolm_mappo_entity")
    assert (entity["head"]["features"], entity["head"]["attack_keys"]) == ("raw", "entity")


def test_a_preset_named_after_with_overrides_files_but_not_the_command_line(configured):
    config = configured("updet_mappo", {"preset": "reference", "entity": {"init_gain": 0.5}})
    assert config["entity"] == {
        **configured("updet_mappo")["entity"],
        **{"role_flag": False, "further_fields": [], "mask_absent": False, "heal_mode": "ignore", "init_gain": 0.5},
    }
    assert (config["preset"], config["critic_type"]) == ("reference", "updet_critic")


def test_a_learner_preset_named_after_with_overrides_the_files(configured):
    config = configured("updet_mappo", {"learner_preset": "dt2gs_ref", "lr": 0.25})
    assert (config["batch_size_run"], config["lr_decay"], config["lr"]) == (16, True, 0.25)
    assert config["learner_preset"] == "dt2gs_ref"
    assert configured("lolm_mappo", {"learner_preset": "epymarl"})["batch_size"] == 10  # over the file's own 8


def test_a_preset_named_in_a_file_overrides_extended_files_but_not_that_file(configured, users_file):
    mine = users_file("extends: updet_mappo\nlearner_preset: dt2gs_ref\npreset: reference\nlr: 0.25\n")
    config = configured(mine)
    assert (config["lr"], config["critic_lr"], config["minibatches"]) == (0.25, 0.0005, 8)
    assert config["entity"]["role_flag"] is False
    assert configured(users_file("extends: updet_mappo\nlr: 0.25\n"))["lr"] == 0.25  # rnn_mappo names standard


def test_a_preset_is_stronger_than_a_learner_preset_and_both_than_the_map(configured, host_dir, monkeypatch, tmp_path):
    for folder in ("algs", "maps", "learners", "presets", "envs"):
        (tmp_path / folder).mkdir()
        for file in (plugin_config_dir() / folder).glob("*.yaml"):
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "default.yaml").write_bytes((plugin_config_dir() / "default.yaml").read_bytes())
    (tmp_path / "maps/rnn_mappo.yaml").write_text("3m: {t_max: 1, lr: 1.0, gamma: 0.5, epochs: 1}")
    (tmp_path / "learners/quick.yaml").write_text("lr: 2.0\ngamma: 0.6\n")
    (tmp_path / "presets/rnn_mappo.yaml").write_text("odd: {lr: 3.0}")
    monkeypatch.setattr(config_files, "plugin_config_dir", lambda: tmp_path)
    config = configured("rnn_mappo", {"learner_preset": "quick", "preset": "odd", "t_max": 7})
    assert [config[key] for key in ("t_max", "lr", "gamma", "epochs")] == [7, 3.0, 0.6, 1]


@pytest.mark.parametrize("key", ["preset", "learner_preset"])
def test_none_removes_a_preset(configured, users_file, key):
    mine = users_file("extends: updet_mappo\npreset: reference\nlearner_preset: dt2gs_ref\n")
    changed = {"preset": "role_flag", "learner_preset": "minibatches"}[key]
    before, after = flatten(configured(mine)), flatten(configured(mine, {key: None}))
    assert after[key] is None
    assert {name.split(".")[-1] for name in before if before[name] != after[name]} >= {key, changed}


def test_presets_are_inherited(configured):
    assert configured("updet_paper", {"preset": "reference"})["entity"]["role_flag"] is False


# Errors


@pytest.mark.parametrize(
    ("algorithm", "updates", "parts"),
    [
        (
            "updet_mappo",
            {"preset": "referance"},
            ("preset=referance on the command line", "updet_mappo (did you mean reference?)", "one of: reference."),
        ),
        ("rnn_mappo", {"preset": "reference"}, ("preset=reference", "rnn_mappo has none", "leave preset out")),
        (
            "lolm_mappo",
            {"learner_preset": "dt2gs"},
            ("learner_preset=dt2gs", "dt2gs_ref?", "one of: dt2gs_ref, epymarl, large_batch, standard"),
        ),
        ("updet_mappo", {"preset": 3}, ("preset=3", "one of: reference")),
    ],
)
def test_an_unknown_preset_is_refused_with_the_known_ones(configured, algorithm, updates, parts):
    with pytest.raises(ConfigError) as error:
        configured(algorithm, updates)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_preset_that_a_file_names_is_refused_with_the_file(configured, users_file):
    with pytest.raises(ConfigError, match=r"learner_preset=fast in .*mine\.yaml is unknown to mine"):
        configured(users_file("extends: updet_mappo\nlearner_preset: fast\n"))


def test_an_algorithm_of_the_host_has_no_presets(tmp_path):
    for folder in ("algs", "envs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "default.yaml").write_text("env_args: {}")
    (tmp_path / "algs/qmix.yaml").write_text("lr: 1.0")
    for key in ("preset", "learner_preset"):
        with pytest.raises(ConfigError, match=f"{key}=standard .* qmix has none"):
            stack(resolve("qmix", "smax", tmp_path), {key: "standard"})


# Lines for the log


def test_the_log_says_which_preset_set_what(host_dir):
    lines = notes("updet_mappo", {"preset": "reference", "lr": 0.25}, host_dir)
    assert [line.split(":")[0] for line in lines] == [
        "From config/learners/standard.yaml",
        "From config/maps/lolm_mappo.yaml for 3m",
        "From config/presets/updet_mappo.yaml for reference",
    ]
    assert "critic_lr=0.0005" in lines[0]
    assert " lr=" not in lines[0]  # the command line overrides it
    assert "t_max=2000000;" in lines[1]
    assert "entity.further_fields=[]" in lines[2]


def test_the_log_names_the_kl_setting_of_the_map_only_with_a_kl(host_dir):
    assert "kl.anneal_steps=1000000" in notes("lolm_mappo", {}, host_dir)[0]
    assert "kl." not in notes("lolm_mappo_no_kl", {}, host_dir)[0]


# Shipped presets


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_shipped_preset_makes_a_valid_configuration(path, configured):
    for name in read(path):
        check(configured(path.stem, {"preset": name}))


def test_every_preset_belongs_to_an_algorithm():
    algorithms = {path.stem for path in (plugin_config_dir() / "algs").glob("*.yaml")}
    assert {path.stem for path in PRESETS} <= algorithms
    assert {path.stem for path in (plugin_config_dir() / "maps").glob("*.yaml")} <= algorithms


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("algorithm", ["rnn_mappo", "dt2gs_mappo", "lolm_mappo"])
def test_every_learner_preset_makes_a_valid_configuration(name, algorithm, configured):
    config = configured(algorithm, {"learner_preset": name})
    check(config)
    assert flatten(config).items() >= flatten(read(plugin_config_dir() / f"learners/{name}.yaml")).items()


def test_all_learner_presets_set_the_same_keys():
    keys = {frozenset(read(plugin_config_dir() / f"learners/{name}.yaml")) for name in LEARNERS}
    assert len(keys) == 1


def test_no_preset_names_a_preset():
    for path in [*PRESETS, *(plugin_config_dir() / "learners").glob("*.yaml")]:
        words = {word for event in yaml.parse(path.read_text()) if (word := getattr(event, "value", None))}
        assert not {"preset", "learner_preset", "extends"} & words


@pytest.mark.parametrize("algorithm", BASELINES)
def test_the_reference_of_a_baseline_is_the_published_form(algorithm, configured):
    config = configured(algorithm, {"preset": "reference"})
    entity = config["entity"]
    assert (entity["role_flag"], entity["further_fields"], entity["mask_absent"]) == (False, [], False)
    assert (entity["heal_mode"], entity["legacy_type_bug"]) == ("ignore", False)
    paper = algorithm == "updet_paper"
    assert entity["init_gain"] == (None if paper else 0.01)
    assert config["critic_type"] == ("transformer_critic" if paper else f"{config['agent']}_critic")
    assert config["dt2gs"]["fuse_relu"] is (algorithm != "dt2gs_mappo")


def test_a_default_baseline_is_the_strong_form(configured):
    for algorithm in BASELINES:
        config = configured(algorithm)
        assert config["entity"] == {
            **{"role_flag": True, "further_fields": ["cooldown", "x", "y"], "mask_absent": True},
            **{"heal_mode": "ally_tokens", "init_gain": None, "legacy_type_bug": False},
        }
        assert (config["critic_type"], config["preset"]) == ("transformer_critic", None)
