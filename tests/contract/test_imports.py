"""Importing a checkout, tested with a stub, because the real one may be absent. Each test has its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STUB = {
    "run.py": """
        import controllers, runners, learners, components.episode_buffer, utils.logging
        def run(_run, config, log): log.append(config["env"])
    """,
    "utils/logging.py": "",
    "components/__init__.py": "",
    "components/episode_buffer.py": "class EpisodeBatch: pass\nclass ReplayBuffer: pass",
    "components/action_selectors.py": "REGISTRY = {}",
    "controllers/__init__.py": "REGISTRY = {}",
    "learners/__init__.py": "REGISTRY = {}",
    "runners/__init__.py": "from envs import REGISTRY as envs\nREGISTRY = {}",
    "modules/__init__.py": "",
    "modules/agents/__init__.py": "REGISTRY = {}",
    "modules/critics/__init__.py": "REGISTRY = {}",
    "envs/__init__.py": """
        import warnings
        import smaclite
        import gymnasium as gym
        from gymnasium import Wrapper, spaces
        from gymnasium.spaces import flatdim
        warnings.warn("VMAS is not installed, so these environments will not be available!")
        class Flat(Wrapper): pass
        class Easy:
            def __init__(self, **env_args): self.env_args = env_args
        class Space:
            size = staticmethod(lambda: spaces.flatdim(3))
        REGISTRY = {"smaclite": Flat, "gymma": Flat, "flat": Flat, "space": Space.size, "easy": Easy}
        def register_smac():
            REGISTRY["sc2"] = lambda **env_args: ("battle", env_args)
    """,
}

# Start of every test: packages that count as not installed, and a function that prints errors.
PRELUDE = """
import pickle, sys
sys.modules["smaclite"] = sys.modules["gymnasium"] = sys.modules["smac"] = sys.modules["smacv2"] = None
from pathlib import Path
from lolm_plugin.errors import ConfigError
from lolm_plugin.host import open_host
def attempt(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ConfigError as error:
        print(error)
    else:
        print("no error")
checkout = Path("epymarl").resolve()
"""


def dedent(text):
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    return "\n".join(line[indent:] for line in lines) + "\n"


@pytest.fixture
def outcome(tmp_path):
    """``outcome(code)`` runs the code next to a stub checkout; returns its output and error lines."""
    for name, text in STUB.items():
        path = tmp_path / "epymarl/src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def run(code):
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + dedent(code)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()

    return run


def test_packages_of_environments_may_be_missing(outcome):
    out, err = outcome("""
        host = open_host(checkout)
        assert open_host(checkout) is host
        print(sorted(host.registries["env"]))
        print("gymnasium.spaces" in sys.modules, sys.modules.get("smaclite"))
        log = []
        host.run(None, {"env": "easy"}, log)
        print(log)
    """)
    assert out == [
        "['easy', 'flat', 'gymma', 'sc2', 'sc2v2', 'smaclite', 'space']",
        "False None",
        "['easy']",
    ]
    assert err == ["Not installed: smaclite, gymnasium; EPyMARL runs without env=smaclite, gymma."]


@pytest.mark.parametrize(
    ("env", "package"),
    [("smaclite", "smaclite"), ("gymma", "gymnasium"), ("sc2", "smac"), ("sc2v2", "smacv2")],
)
def test_an_environment_whose_package_is_missing_cannot_be_used(outcome, env, package):
    out, _ = outcome(f"""
        host = open_host(checkout)
        log = []
        attempt(host.run, None, {{"env": "{env}"}}, log)
        attempt(pickle.loads(pickle.dumps(host.registries["env"]["{env}"])), map_name="3m")
        print(log)
    """)
    assert out[0].startswith(f"env={env} needs the Python package {package}, which is not installed")
    assert out[1:] == [out[0], "[]"]


def test_a_broken_package_disables_only_its_own_environment(outcome, tmp_path):
    (tmp_path / "smaclite").mkdir()
    (tmp_path / "smaclite/__init__.py").write_text("raise OSError('Could not load libspatialindex_c library')")
    out, err = outcome("""
        del sys.modules["smaclite"]
        host = open_host(checkout)
        log = []
        host.run(None, {"env": "easy"}, log)
        attempt(host.run, None, {"env": "smaclite"}, log)
        attempt(host.env_maker("smaclite"), map_name="3m")
        print(host.env_maker("easy")(map_name="3m").env_args, log)
    """)
    assert out[0] == (
        "env=smaclite needs the Python package smaclite, which cannot be imported (OSError: Could not load "
        "libspatialindex_c library); `lolm doctor` says what it needs, or set another env."
    )
    assert out[1:] == [out[0], "{'map_name': '3m'} ['easy']"]
    assert err[0].startswith("smaclite cannot be imported (OSError: Could not load libspatialindex_c library); EPyMARL")


def test_using_a_name_of_a_missing_package_is_an_error(outcome):
    out, _ = outcome("""
        host = open_host(checkout)
        attempt(host.registries["env"]["flat"])
        attempt(host.registries["env"]["space"])
    """)
    assert out[0].startswith("gymnasium.Wrapper is needed here, but the package gymnasium is not installed")
    assert out[1].startswith("gymnasium.spaces.flatdim is needed here")


def test_any_other_missing_package_is_an_error_and_leaves_no_trace(outcome, tmp_path):
    runners = tmp_path / "epymarl/src/runners/__init__.py"
    runners.write_text("import no_such_package\n")
    out, _ = outcome("""
        before = list(sys.path), set(sys.modules)
        attempt(open_host, checkout)
        left = {name.split(".")[0] for name in set(sys.modules) - before[1]}
        print(sys.path == before[0], left & {"run", "utils", "envs", "smaclite", "gymnasium"})
        (checkout / "src/runners/__init__.py").write_text("REGISTRY = {'episode': None}")
        print(list(open_host(checkout).registries["runner"]))
    """)
    assert out[0] == (
        f"EPyMARL at {tmp_path / 'epymarl'} needs the Python package no_such_package, which is not installed; "
        f"run `pip install -r {tmp_path / 'epymarl/requirements.txt'}`."
    )
    assert out[1:] == ["True set()", "['episode']"]


def test_a_checkout_that_lacks_a_module_is_too_old(outcome, tmp_path):
    (tmp_path / "epymarl/src/utils/logging.py").unlink()
    out, _ = outcome("attempt(open_host, checkout)")
    assert "has no module utils.logging; use a newer checkout" in out[0]


def test_an_already_imported_name_is_refused_with_its_file(outcome, tmp_path):
    (tmp_path / "envs.py").touch()
    out, _ = outcome("""
        import envs
        attempt(open_host, checkout)
    """)
    assert out[0].startswith(f"The module envs was already imported from {tmp_path / 'envs.py'}, but EPyMARL")


def test_another_package_called_utils_is_not_imported(outcome, tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/__init__.py").touch()
    out, _ = outcome("attempt(open_host, checkout)")
    assert out == ["no error"]


def test_the_checkout_is_not_written_to(outcome, tmp_path):
    before = {path: path.read_text() for path in (tmp_path / "epymarl").rglob("*.py")}
    outcome("open_host(checkout)")
    after = {path: path.read_text() for path in (tmp_path / "epymarl").rglob("*.py")}
    assert after == before


def test_environments_are_built_in_a_fresh_process_without_the_rest_of_epymarl(outcome, tmp_path):
    outcome("""
        sys.modules["smac"] = sys  # any module, so that smac counts as installed
        host = open_host(checkout)
        for env in ("easy", "sc2"):
            Path(env).write_bytes(pickle.dumps(host.env_maker(env)))
    """)
    out, _ = outcome("""
        easy, sc2 = (pickle.loads(Path(env).read_bytes()) for env in ("easy", "sc2"))
        print(easy(map_name="3m").env_args, sc2(map_name="8m"))
        print(sorted({"run", "learners", "components", "torch"} & sys.modules.keys()), sys.modules.get("smaclite"))
    """)
    assert out == ["{'map_name': '3m'} ('battle', {'map_name': '8m'})", "[] None"]


def test_entries_that_epymarl_did_not_register_stay_unchanged(outcome):
    out, _ = outcome("""
        host = open_host(checkout)
        host.registries["env"]["mine"] = mine = lambda **env_args: 0
        print(host.env_maker("mine") is mine, host.env_maker("smaclite") is host.registries["env"]["smaclite"])
        attempt(host.env_maker, "yours")
    """)
    assert out[0] == "True True"
    assert out[1].startswith("env=yours is not known to EPyMARL, which has easy, flat, gymma, mine")
