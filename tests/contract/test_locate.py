import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.epymarl import commit
from lolm_plugin.paths import BUNDLED, cache_dir, config_dir, locate


def checkout(path):
    (path / "src/components").mkdir(parents=True)
    (path / "src/run.py").touch()
    (path / "src/components/episode_buffer.py").touch()
    return path


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Simulate a machine without a checkout; the current folder is ``tmp_path/work``."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("EPYMARL_HOME", raising=False)
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))


def test_no_checkout(tmp_path):
    assert locate(None) is None
    (tmp_path / "work/epymarl").mkdir()  # another folder of that name
    assert locate(None) is None


def test_search_order_of_checkouts(tmp_path, monkeypatch):
    folders = [tmp_path / folder for folder in ("cache/epymarl", "epymarl", "work/epymarl", "home", "told")]
    for folder in folders[:3]:
        checkout(folder)
        assert locate(None) == folder
    monkeypatch.setenv("EPYMARL_HOME", str(checkout(folders[3])))
    assert locate(None) == folders[3]
    assert locate("") == folders[3]
    assert locate(str(checkout(folders[4]))) == folders[4]


@pytest.mark.parametrize("word", ["none", "bundled", "None"])
def test_the_bundled_host_can_be_asked_for(word, tmp_path, monkeypatch):
    checkout(tmp_path / "epymarl")
    assert locate(word) is None
    monkeypatch.setenv("EPYMARL_HOME", word)
    assert locate(None) is None
    assert locate(str(tmp_path / "epymarl")) == tmp_path / "epymarl"


def test_a_named_folder_must_be_a_checkout(tmp_path, monkeypatch):
    checkout(tmp_path / "epymarl")
    with pytest.raises(ConfigError, match=r"^--epymarl=\S+/work is not an EPyMARL checkout .* set --epymarl to"):
        locate(str(tmp_path / "work"))
    monkeypatch.setenv("EPYMARL_HOME", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"^EPYMARL_HOME=\S+/gone is not an EPyMARL checkout"):
        locate(None)


def test_home_folder_and_relative_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkout(tmp_path / "epymarl")
    assert locate("~/epymarl") == locate("../epymarl") == tmp_path / "epymarl"


def test_config_dir(tmp_path):
    assert config_dir(tmp_path) == tmp_path / "src/config"
    assert config_dir(None) == BUNDLED / "config"
    assert (BUNDLED / "config/default.yaml").is_file()


def test_finding_a_host_imports_nothing_slow(tmp_path):
    code = (
        "import sys; from lolm_plugin.paths import config_dir, locate; config_dir(locate(None));"
        "assert not {'torch', 'numpy', 'sacred'} & set(sys.modules), 'slow'"
    )
    repository = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(repository)}, check=True)


def test_cache_dir(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LOLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/lolm_plugin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache/lolm_plugin"


HASH = "cbc38c0" + "0" * 33


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_commit(tmp_path):
    assert commit(tmp_path) == "unknown"
    git = tmp_path / ".git"
    write(git / "HEAD", HASH)
    assert commit(tmp_path) == HASH
    write(git / "HEAD", "ref: refs/heads/main")
    assert commit(tmp_path) == "unknown"
    write(git / "packed-refs", f"# pack-refs with: peeled\n{'1' * 40} refs/heads/other\n{HASH} refs/heads/main")
    assert commit(tmp_path) == HASH
    write(git / "refs/heads/main", "2" * 40)
    assert commit(tmp_path) == "2" * 40


def test_commit_of_a_linked_worktree(tmp_path):
    git = tmp_path / "main/.git"
    write(git / "refs/heads/side", HASH)
    write(git / "worktrees/side/HEAD", "ref: refs/heads/side")
    write(git / "worktrees/side/commondir", "../..")
    write(tmp_path / "side/.git", f"gitdir: {git / 'worktrees/side'}")
    assert commit(tmp_path / "side") == HASH
