"""A documented setting reaches the code that it names, or is refused: each key, for each kind of policy."""

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
# Keys that are read where no run's arguments are: by whom.
ELSEWHERE = {
    **dict.fromkeys(("preset", "learner_preset"), "config_files.stack"),
    **dict.fromkeys(("torch_threads", "mongo"), "launch"),
    **dict.fromkeys(("batch_size", "buffer_size"), "config_check: batch_size_run"),
    **dict.fromkeys(("repeat_id", "label", "hypergroup"), "names of a run, in its record"),
    **dict.fromkeys(("use_tensorboard", "wandb_team", "wandb_project", "wandb_mode"), "the host's logger"),
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
    """A section of the configuration that notes which keys are read. Copied as a whole, it notes nothing."""

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
        """A run's arguments, which note what is read of them."""

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
def test_nothing_that_is_read_is_refused(read_by, kind):
    config, seen = read_by[kind]
    # Their section is taken apart where the learner is built; without a language model nothing comes of it.
    built = {f"kl.{key}" for key in config["kl"]} if config["agent"] != "llm" else set()
    # One group of parameters is clipped alike together and by itself; inputs of flat vectors are no trunk's.
    alike = {"clip_per_group", "obs_agent_id", "obs_last_action"}
    assert {key for key in seen & DEFAULTS.keys() if unread_keys.never_read(config, key)} <= built | alike


def test_what_is_said_to_be_read_elsewhere_is_a_key():
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
def test_what_is_the_default_or_is_read_is_no_offence(algorithm, updates):
    check(configured(algorithm, **updates))


def test_a_users_file_is_held_to_the_same(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: rnn_mappo\nname: mine\nhidden_dim: 128\n")
    with pytest.raises(ConfigError, match=r"hidden_dim=128 in .*mine\.yaml would have no effect with name=mine"):
        configured(str(file))


@pytest.fixture
def epymarl(tmp_path):
    """A host's configuration folder with an algorithm of its own."""
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
def test_keys_of_the_hosts_algorithms_and_ours_are_told_apart(epymarl, algorithm, updates, said):
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
        ({"imitate": {"battles": 5}}, ["imitate.battles=5 (lolm imitate alone reads it)"]),
        ({"lr": 0.5, "kl": {"eps": 0.5}}, []),
    ],
)
def test_what_another_key_switches_off_is_said(updates, said):
    notes = unread_keys.notes(configured("lolm_mappo_tiny", **updates), updates)
    assert notes == [f"Without effect: {what}." for what in said]


def test_an_imitation_says_which_keys_are_the_trainings():
    config = configured("lolm_mappo_tiny", lr=0.5, imitate={"lr": 0.5})
    config["imitate"]["teacher"] = "heuristic"
    (note,) = unread_keys.notes(config, {"lr": 0.5, "imitate": {"lr": 0.5}})
    assert note == "Without effect: lr=0.5 (lolm imitate has its own settings under imitate)."


def test_the_command_lines_say_it(monkeypatch):
    line = ["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none"]
    keys = ["with", "lr=0.5", "lr=0.25", "imitate.battles=5"]
    said = []
    for module in (train_command, imitate_command):
        monkeypatch.setattr(module, "launch", lambda config, host, asked: said.append(list(asked.notes)) or 0)
    assert train_command.main(["main.py", *line, *keys]) == 0
    assert imitate_command.main([*line, "--teacher=heuristic", *keys]) == 0
    twice = "lr stands 2 times after `with`: the last one, lr=0.25, counts."
    train, imitate = ([note for note in notes if "=" in note and "From" not in note] for notes in said)
    assert train[:2] == [twice, "Without effect: imitate.battles=5 (lolm imitate alone reads it)."]
    assert imitate[:2] == [twice, "Without effect: lr=0.25 (lolm imitate has its own settings under imitate)."]


def test_every_shipped_algorithm_is_of_a_kind_that_is_tested():
    kinds = {configured(kind)["agent"] for kind in KINDS}
    shipped = [name for name in available("algs", HOST_DIR)]
    assert {resolve(name, "probe", HOST_DIR).config["agent"] for name in shipped} == kinds


@pytest.mark.parametrize(
    "name", [name for name, path in available("algs", HOST_DIR).items() if HOST_DIR not in path.parents]
)
def test_a_copy_of_a_shipped_algorithm_is_no_offence(tmp_path, name):
    file = tmp_path / "mine.yaml"
    file.write_text(available("algs", HOST_DIR)[name].read_text())
    check(configured(str(file)))


def test_a_copy_of_an_algorithm_of_the_host_may_have_no_mixer(epymarl, tmp_path_factory):
    """EPyMARL's iql.yaml sets it to null, where others name one."""
    file = tmp_path_factory.mktemp("mine") / "mine.yaml"
    file.write_text("name: iql\nlearner: q_learner\nmixer:\n")
    assert apply_updates(resolve(str(file), "probe", epymarl), {}, epymarl)["mixer"] is None
