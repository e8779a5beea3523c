"""Find the host's and the plugin's folders; turn names and paths that users write into safe ones."""

import hashlib
import os
from pathlib import Path

from lolm_plugin.errors import ConfigError

BUNDLED = Path(__file__).parent / "host/bundled"
NO_CHECKOUT = ("none", "bundled")  # values of --epymarl and $EPYMARL_HOME that ask for the bundled host

# Set once by the command line or the host that was opened: observations may not know what a host is.
_host_config_dir = Path("no-host")

# A run's folder has two names and a date in it, and file systems allow 255 bytes.
LONGEST_NAME = 80  # bytes
SEPARATORS_AND_WILDCARDS = frozenset('/\\*?[]<>|"')


def cache_dir() -> Path:
    """Return the per-user cache: ``$LOLM_CACHE``, else ``$XDG_CACHE_HOME/lolm_plugin``, else ``~/.cache/lolm_plugin``.

    Nothing is created.
    """
    if own := os.environ.get("LOLM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lolm_plugin"


def is_checkout(path: Path) -> bool:
    """Return whether ``path`` is the top folder of an EPyMARL checkout."""
    return (path / "src/run.py").is_file() and (path / "src/components/episode_buffer.py").is_file()


def locate(explicit: str | None) -> Path | None:
    """Find the EPyMARL checkout to use; None: the bundled host.

    Looked for in this order: ``explicit`` (the value of ``--epymarl``), ``$EPYMARL_HOME``, ``./epymarl``,
    ``../epymarl``, the per-user cache. The first two may also say ``none`` or ``bundled``.

    Raises:
        ConfigError: one of the first two names something that is not a checkout.
    """
    for key, value in (("--epymarl", explicit), ("EPYMARL_HOME", os.environ.get("EPYMARL_HOME"))):
        if not value:
            continue
        if value.lower() in NO_CHECKOUT:
            return None
        path = Path(value).expanduser().resolve()
        if not is_checkout(path):
            raise ConfigError(
                f"{key}={value} is not an EPyMARL checkout (it has no src/run.py with "
                f"src/components/episode_buffer.py); point {key} at the folder that git clone made, "
                f"or set it to none to use the bundled host."
            )
        return path
    for guess in (Path("epymarl"), Path("../epymarl"), cache_dir() / "epymarl"):
        if is_checkout(guess):
            return guess.resolve()
    return None


def config_dir(checkout: Path | None) -> Path:
    """Return the folder with ``default.yaml`` and, in a checkout, ``algs/`` and ``envs/`` of what ``locate`` found."""
    return BUNDLED / "config" if checkout is None else checkout / "src/config"


def use_host_config_dir(path: Path) -> None:
    """Set where the host's ``default.yaml``, ``algs/`` and ``envs/`` are."""
    global _host_config_dir
    _host_config_dir = path


def host_config_dir() -> Path:
    """Return the folder that ``use_host_config_dir`` set last; before the first call one that does not exist."""
    return _host_config_dir


def path_component(name: str) -> str:
    """Turn a name that a user or an environment chose into the name of one folder.

    Letters of any alphabet, digits, blanks and most signs are kept. Separators, wildcards, control characters, a dot,
    dash, tilde or blank in front and a dot or blank at the end become ``_``; a long name is cut. A changed name gets a
    hash of the original, so that two names never share a folder.
    """
    safe = "".join(sign if sign.isprintable() and sign not in SEPARATORS_AND_WILDCARDS else "_" for sign in name)
    if safe[:1] in ("", ".", "-", "~", " "):
        safe = f"_{safe[1:]}"
    if safe[-1] in ". ":
        safe = f"{safe[:-1]}_"
    if safe == name and len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def expand_home(path: str, key: str) -> str:
    """Replace ``~`` and ``~user`` at the start of a path that the user gave as ``key``.

    Raises:
        ConfigError: there is no such user.
    """
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ConfigError(
            f"{key}={path} begins with the home of a user who does not exist; set {key} to an absolute path, or to "
            f"./{path} for a folder of that name."
        )
    return full
