"""The schema agrees with the yaml files, which explain every key."""

import pytest

from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read
from lolm_plugin.configuration.fields import Range, Trusted
from lolm_plugin.configuration.schema import FIELDS, field_of
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.sources import SMOLLM2, TINY
from lolm_plugin.paths import BUNDLED

DEFAULTS = flatten(read(BUNDLED / "config/default.yaml")) | flatten(read(plugin_config_dir() / "default.yaml"))
# Keys of Sacred, of the algorithms' own yaml files, and of EPyMARL's algorithms.
OTHERS = {"seed", "name", "learner", "action_selector", "agent_output_type", "mixer", "target_update_interval_or_tau"}


def test_every_key_of_the_defaults_has_a_field_that_takes_its_value():
    keys = DEFAULTS.keys() - {"env_args"}
    assert {key for key in FIELDS if not key.startswith("env_args.")} == keys | OTHERS
    for key in keys:
        value, field = DEFAULTS[key], FIELDS[key]
        assert type(value) in field.types, key
        assert not field.out_of_range(value) + field.no_choice(value), key


@pytest.mark.parametrize("key", sorted(key for key, field in FIELDS.items() if field.get(Range)))
def test_a_range_says_what_it_allows(key):
    field = FIELDS[key]
    bounds = field.get(Range)
    beyond = -1 if bounds.least is not None or bounds.above is not None else bounds.most + 1
    assert f"{key}={beyond} is out of range; set {key} to " in field.out_of_range(beyond)
    assert bounds.most is None or str(bounds.most) in field.out_of_range(bounds.most + 1)


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("epochs", "1e1", 10),
        ("epochs", 4.0, 4),
        ("lr", 1, 1.0),
        ("lr", "1e-3", 0.001),
        ("label", 7, "7"),
        ("llm.num_layers", "null", None),
        ("lora.targets", ["q_proj"], ["q_proj"]),
        ("target_update_interval_or_tau", 0.01, 0.01),
        ("target_update_interval_or_tau", 200, 200),
    ],
)
def test_a_value_is_converted_to_its_keys_type(key, given, taken):
    value = field_of(key).typed(given, None, "here")
    assert (value, type(value)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *(("epochs", value) for value in (True, "4", 4.5, "x", None, [4], {})),
        *(("lr", value) for value in (True, "0.1", None, [0.1])),
        *(("use_cuda", value) for value in (0, 1, "True", "yes", None, 1.0)),
        *(("label", value) for value in (True, 1.5, None, ["a"])),
    ],
)
def test_no_other_value_is_converted(key, given):
    with pytest.raises(ConfigError, match=f"{key}=.* here is "):
        field_of(key).typed(given, None, "here")


def test_a_checkpoint_may_name_only_the_known_models():
    trusted = FIELDS["llm.model"].get(Trusted).pattern
    assert all(trusted.fullmatch(name) for name in (SMOLLM2, *TINY, "Qwen/Qwen3-0.6B"))
    assert not any(trusted.fullmatch(name) for name in ("stranger/model", "./smollm2-135m", "tiny-llama/x"))
