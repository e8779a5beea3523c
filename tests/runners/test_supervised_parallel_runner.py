"""The supervised runner apart from faults, which are tested in tests/faults."""

import pytest
import yaml

from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.errors import ConfigError
from lolm_plugin.runners.supervised_parallel_runner import DEFAULTS


def test_a_worker_imports_no_heavy_packages(fresh_python):
    program = (
        "import sys; import lolm_plugin.runners.env_process, lolm_plugin.host.epymarl;"
        "print(sorted({'torch', 'transformers', 'numpy', 'sacred'} & sys.modules.keys()))"
    )
    assert fresh_python(program) == "[]\n"


def test_epymarls_algorithms_get_the_same_defaults():
    defaults = yaml.safe_load((config_files.plugin_config_dir() / "default.yaml").read_text())
    assert {key: defaults[key] for key in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("key", "good", "bad"), [("worker_timeout", [0.5, 600], [0, -1]), ("worker_restarts", [0, 100], [-1])]
)
def test_ranges_of_the_keys(host_dir, key, good, bad):
    sizes = {"runner": "supervised_parallel", "batch_size_run": 4}

    def check(value):
        resolved = config_files.resolve("lolm_mappo_tiny", "probe", host_dir)
        config_check.check(config_check.apply_updates(resolved, {**sizes, key: value}, host_dir))

    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ConfigError, match=f"^{key}={value:g}.* is out of range; set {key} to "):
            check(value)
