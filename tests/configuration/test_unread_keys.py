"""Every documented key is read by the code or refused, for each kind of policy."""

from argparse import Namespace

import pytest

from lolm_plugin.commands import imitate as imitate_command
from lolm_plugin.commands import train as train_command
from lolm_plugin.configuration import unread_keys
from lolm_plugin.configuration.config_check import apply_updates, check
from lolm_plugin.configuration.config_files import available, flatten, plugin_config_dir, read, resolve
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import BUNDLED
from lolm_plugin.run import loop
from tests.algorithms import HOST_DIR

KINDS = ("lolm_mappo_tiny", "rnn_mappo", "updet_mappo", "asn_attention_mappo", "dt2gs_mappo")
DEFAULTS = flatten(read(BUNDLED / "config/default.yaml")) | flatten(read(plugin_config_dir() / "default.yaml"))
# Keys that are not read from a run's arguments, and the code that reads them.
ELSEWHERE = {
    **dict.fromkeys(("preset", "learner_preset"), "config_files.stack"),
    **dict.fromkeys(("torch_threads", "mongo"), "launch"),
    **dict.fromkeys(("batch_size", "buffer_size"), "config_check: batch_size_run"),
    **dict.fromkeys(("repeat_id", "label", "hypergroup"), "names of a run, in its record"),
    **dict.fromkeys(
        ("use_tensorboard", "use_trackio", "wandb_team", "wandb_project", "wandb_mode"), "the host's logger"
    ),
    "wandb_save_model": "loop.Training, with use_wandb",
    "transfer_critic": "loop.run, with transfer_from",
    "load_step": "loop.run, with checkpoint_path or transfer_from",
    "strict": "loop.run, with checkpoint_path or transfer_from",
    "on_save_error": "loop.Training, where a checkpoint cannot be written",
    "render": "runners that step single environments",
    "imitate.teacher": "the command: it is the switch between training and imitation",
    "env_args": "one environment each",
}


class Recorded(dict):
    """Section of a configuration that records which keys are read. A copy of the whole section records nothing."""

    def __init__(self, content, name, seen):
        super().__init__(content)
        self.name, self.seen = name, seen

    def __getitem__(self, key):
        self.seen.add(f"{self.name}.{key}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.seen.add(f"{self.name}.{key}")
        return super().get(key, default)


def recorded_namespace(seen):
    class Recording(Namespace):
        """Arguments of a run that record which of them are read."""

        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            seen.add(name)
            return value

    def build(**config):
        sections = {
            key: Recorded(value, key, seen) if isinstance(value, dict) and key != "env_args" else value
            for key, value in config.items()
        }
        return Recording(**sections)

    return build


@pytest.fixture(scope="module")
def read_by(tmp_path_factory):
    """{kind of policy: (its configuration, the keys that a small run of it read)}."""
    found = {}
    folder = tmp_path_factory.mktemp("runs")
    small = [f"{key}=4" for key in ("batch_size_run", "test_nepisode")]
    small += ["-u", "t_max=4", "env_args.map_name=target", "torch_threads=1", "save_model_interval=1"]
    for kind in KINDS:
        seen = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(loop, "Namespace", recorded_namespace(seen))
            further = ["head.keys=words", "head.features=normalised"] if kind == "lolm_mappo_tiny" else []
            options = [f"--config={kind}", "--env-config=probe", "--epymarl=none"]
            assert train_command.main(["main.py", *options, "with", *small, *further]) == 0
        found[kind] = apply_updates(resolve(kind, "probe", HOST_DIR), {}, HOST_DIR), seen
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_key_of_the_defaults_is_read_or_listed_as_not_read(read_by, kind):
    config, seen = read_by[kind]
    unread = {
        key
        for key in DEFAULTS
        if key not in seen
        and key not in (*ELSEWHERE, *unread_keys.REFUSED_BY_CHECK)
        and not unread_keys.never_read(config, key)
        and not unread_keys.switched_off(config, key)
    }
    assert unread == set()


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_that_is_read_is_refused(read_by, kind):
    config, seen = read_by[kind]
    # The learner reads all keys of kl when it is built, but uses them only with a language model.
    built = {f"kl.{key}" for key in config["kl"]} if config["agent"] != "llm" else set()
    # clip_per_group changes nothing with one parameter group; the other two keys are for flat observations.
    alike = {"clip_per_group", "obs_agent_id", "obs_last_action"}
    assert {key for key in seen & DEFAULTS.keys() if unread_keys.never_read(config, key)} <= built | alike


def test_the_keys_that_are_read_elsewhere_exist():
    assert ELSEWHERE.keys() <= DEFAULTS.keys()


def configured(algorithm, **updates):
    return apply_updates(resolve(algorithm, "probe", HOST_DIR), updates, HOST_DIR)


@pytest.mark.parametrize(
    ("algorithm", "updates", "said"),
    [
        ("rnn_mappo", {"hidden_dim": 128}, "hidden_dim=128 on the command line would have no effect"),
        ("rnn_mappo", {"optim_alpha": 0.5}, "optim_alpha=0.5"),
        ("lolm_mappo_tiny", {"add_value_last_step": False}, "add_value_last_step=False"),
        ("updet_mappo", {"head_lr": 0.1}, "head_lr=0.1"),
        ("updet_mappo", {"kl": {"coef_max": 0.5}}, "kl.coef_max=0.5"),
        ("updet_mappo", {"dt2gs": {"subtasks": 2}}, "dt2gs.subtasks=2"),
        ("updet_mappo", {"gru": {"width": 8}}, "gru.width=8"),
        ("updet_mappo", {"llm": {"model": "tiny-llama"}}, "llm.model=tiny-llama"),
        ("rnn_mappo", {"entity": {"role_flag": False}}, "entity.role_flag=False"),
        ("rnn_mappo", {"critic": {"layers": 3}}, "critic.layers=3"),
        ("lolm_mappo_tiny", {"obs_agent_id": True}, "obs_agent_id=True"),
        ("rnn_mappo", {"seed": 3, "env_args": {"seed": 4}}, "env_args.seed=4"),
        ("lolm_mappo_tiny", {"layout": {"description": "a:b"}}, "layout.description=a:b"),
    ],
)
def test_a_key_that_an_algorithm_never_reads_is_refused_by_name(algorithm, updates, said):
    with pytest.raises(ConfigError) as error:
        configured(algorithm, **updates)
    assert said in str(error.value)
    assert f"name={algorithm}" in str(error.value) or "set seed" in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "updates"),
    [
        ("rnn_mappo", {"hidden_dim": 64, "optim_alpha": 0.99, "head_lr": 0.0005}),
        ("updet_mappo", {"kl": {"enabled": False}, "obs_agent_id": False}),
        ("updet_mappo", {"seed": 4, "env_args": {"seed": 4}}),
        ("rnn_mappo", {"critic_type": "updet_critic", "updet": {"heads": 2}, "entity": {"role_flag": False}}),
        ("rnn_mappo", {"learner_preset": "epymarl", "hypergroup": "mine", "seed": 3, "name": "mine"}),
    ],
)
def test_defaults_and_keys_that_are_read_are_accepted(algorithm, updates):
    check(configured(algorithm, **updates))


def test_a_users_file_is_checked_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: rnn_mappo\nname: mine\nhidden_dim: 128\n")
    with pytest.raises(ConfigError, match=r"hidden_dim=128 in .*mine\.yaml would have no effect with name=mine"):
        configured(str(file))


@pytest.fixture
def epymarl(tmp_path):
    """A host's configuration folder with its own algorithm."""
    (tmp_path / "algs").mkdir()
    (tmp_path / "envs").mkdir()
    (tmp_path / "default.yaml").write_text((BUNDLED / "config/default.yaml").read_text())
    (tmp_path / "algs/qmix.yaml").write_text("name: qmix\nlearner: q_learner\nstandardise_rewards: True\nmixer: qmix\n")
    return tmp_path


@pytest.mark.parametrize(
    ("algorithm", "updates", "said"),
    [
        ("rnn_mappo", {"standardise_rewards": False}, "standardise_rewards=False .*only other algorithms have it"),
        ("qmix", {"transfer_from": "x"}, "transfer_from=x .*EPyMARL's own"),
        ("qmix", {"kl": {"eps": 0.5}}, "kl.eps=0.5 .*EPyMARL's own"),
    ],
)
def test_keys_of_the_hosts_algorithms_and_ours_are_distinguished(epymarl, algorithm, updates, said):
    with pytest.raises(ConfigError, match=said):
        apply_updates(resolve(algorithm, "probe", epymarl), updates, epymarl)


def test_an_algorithm_of_the_host_takes_its_own_keys(epymarl):
    updates = {"standardise_rewards": False, "hidden_dim": 128, "mongo": "mongodb://localhost"}
    assert apply_updates(resolve("qmix", "probe", epymarl), updates, epymarl)["hidden_dim"] == 128


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({"kl": {"enabled": False, "eps": 0.5}}, ["kl.eps=0.5 (kl.enabled=False)"]),
        ({"clip_values": False, "value_clip": 0.5}, ["value_clip=0.5 (clip_values=False)"]),
        ({"head": {"word_scale": 2.0}}, ["head.word_scale=2.0 (head.keys=random)"]),
        ({"imitate": {"battles": 5}}, ["imitate.battles=5 (only lolm imitate reads it)"]),
        ({"lr": 0.5, "kl": {"eps": 0.5}}, []),
    ],
)
def test_keys_that_another_key_switches_off_are_reported(updates, said):
    notes = unread_keys.notes(configured("lolm_mappo_tiny", **updates), updates)
    assert notes == [f"Without effect: {what}." for what in said]


def test_an_imitation_reports_keys_that_only_a_training_reads():
    config = configured("lolm_mappo_tiny", lr=0.5, imitate={"lr": 0.5})
    config["imitate"]["teacher"] = "heuristic"
    (note,) = unread_keys.notes(config, {"lr": 0.5, "imitate": {"lr": 0.5}})
    assert note == "Without effect: lr=0.5 (lolm imitate has its own settings under imitate)."


def test_the_commands_report_keys_without_effect(monkeypatch):
    line = ["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none"]
    keys = ["with", "lr=0.5", "lr=0.25", "imitate.battles=5"]
    said = []
    for module in (train_command, imitate_command):
        monkeypatch.setattr(module, "launch", lambda config, host, asked: said.append(list(asked.notes)) or 0)
    assert train_command.main(["main.py", *line, *keys]) == 0
    assert imitate_command.main([*line, "--teacher=heuristic", *keys]) == 0
    twice = "lr appears 2 times after `with`: the last one, lr=0.25, counts."
    train, imitate = ([note for note in notes if "=" in note and "From" not in note] for notes in said)
    assert train[:2] == [twice, "Without effect: imitate.battles=5 (only lolm imitate reads it)."]
    assert imitate[:2] == [twice, "Without effect: lr=0.25 (lolm imitate has its own settings under imitate)."]


def test_every_shipped_algorithm_is_of_a_kind_that_is_tested():
    kinds = {configured(kind)["agent"] for kind in KINDS}
    shipped = [name for name in available("algs", HOST_DIR)]
    assert {resolve(name, "probe", HOST_DIR).config["agent"] for name in shipped} == kinds


@pytest.mark.parametrize(
    "name", [name for name, path in available("algs", HOST_DIR).items() if HOST_DIR not in path.parents]
)
def test_a_copy_of_a_shipped_algorithm_is_accepted(tmp_path, name):
    file = tmp_path / "mine.yaml"
    file.write_text(available("algs", HOST_DIR)[name].read_text())
    check(configured(str(file)))


def test_a_copy_of_an_algorithm_of_the_host_may_have_no_mixer(epymarl, tmp_path_factory):
    """EPyMARL's iql.yaml sets it to null, and other files name a mixer."""
    file = tmp_path_factory.mktemp("mine") / "mine.yaml"
    file.write_text("name: iql\nlearner: q_learner\nmixer:\n")
    assert apply_updates(resolve(str(file), "probe", epymarl), {}, epymarl)["mixer"] is None
