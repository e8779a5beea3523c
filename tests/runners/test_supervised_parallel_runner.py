"""What concerns no single fault; what does is in tests/faults."""

import pytest
import yaml

from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.errors import ConfigError
from lolm_plugin.runners.supervised_parallel_runner import DEFAULTS


def test_a_worker_is_light(fresh_python):
    program = (
        "import sys; import lolm_plugin.runners.env_process, lolm_plugin.host.epymarl;"
        "print(sorted({'torch', 'transformers', 'numpy', 'sacred'} & sys.modules.keys()))"
    )
    assert fresh_python(program) == "[]\n"


def test_the_hosts_own_algorithms_get_the_same_values():
    defaults = yaml.safe_load((config_files.plugin_config_dir() / "default.yaml").read_text())
    assert {key: defaults[key] for key in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("key", "good", "bad"), [("worker_timeout", [0.5, 600], [0, -1]), ("worker_restarts", [0, 100], [-1])]
)
def test_ranges_of_the_keys(host_dir, key, good, bad):
    sizes = {"runner": "supervised_parallel", "batch_size_run": 4, "batch_size": 4, "buffer_size": 4}

    def check(value):
        resolved = config_files.resolve("lolm_mappo_tiny", "probe", host_dir)
        config_check.check(config_check.apply_updates(resolved, {**sizes, key: value}, host_dir))

    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ConfigError, match=f"^{key}={value:g}.* is out of range; set {key} to "):
            check(value)


def test_a_controller_remembers_the_episodes_that_are_not_played_again(new_learner, tiny_args, play):
    """A second pass over some rows replaces what is known of these alone."""
    mac = new_learner(tiny_args()).mac
    batch = play(mac, lengths=(4, 2, 3))
    before = mac.behaviour_log_probs.clone()
    for t in range(2):
        mac.select_actions(batch, t_ep=t, t_env=0, bs=[2])
    after = mac.behaviour_log_probs
    assert after[:2].equal(before[:2])
    assert before[2, 2].any()
    assert not after[2, 2:].any()
    assert after[2, :2].any(-1).all()


def test_a_batch_of_another_size_is_remembered_as_it_is(new_learner, tiny_args, play):
    mac = new_learner(tiny_args()).mac
    play(mac, lengths=(4, 2, 3))
    play(mac, lengths=(5, 2))
    assert mac.behaviour_log_probs.shape == (2, 6, mac.n_agents)
