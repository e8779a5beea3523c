"""Folders of the host and the plugin, and safe versions of names and paths that users write."""

import hashlib
import os
from pathlib import Path

from lolm_plugin.errors import ConfigError

BUNDLED = Path(__file__).parent / "host/bundled"
NO_CHECKOUT = ("none", "bundled")  # values of --epymarl and $EPYMARL_HOME that ask for the bundled host

# Set once by the command line or an opened host, because code for observations must not import hosts.
_host_config_dir = Path("no-host")

# The name of a run's folder has two such names and a date. File systems allow 255 bytes.
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


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, in place of an earlier one; it is on the disk afterwards. Raises OSError.

    Characters that UTF-8 cannot encode are written as escapes.
    """
    unfinished = path.with_name(f".{path.name}.writing")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def is_checkout(path: Path) -> bool:
    """Return True if ``path`` is the top folder of an EPyMARL checkout."""
    return (path / "src/run.py").is_file() and (path / "src/components/episode_buffer.py").is_file()


def locate(explicit: str | None) -> Path | None:
    """Return the EPyMARL checkout to use, or None for the bundled host.

    The first match counts: ``explicit`` (the value of ``--epymarl``), ``$EPYMARL_HOME``, ``./epymarl``,
    ``../epymarl``, the per-user cache. The first two may also be ``none`` or ``bundled``.

    Raises:
        ConfigError: one of the first two is set to a path that is not a checkout.
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
                f"src/components/episode_buffer.py); set {key} to the folder that git clone created, "
                f"or set it to none to use the bundled host."
            )
        return path
    for guess in (Path("epymarl"), Path("../epymarl"), cache_dir() / "epymarl"):
        if is_checkout(guess):
            return guess.resolve()
    return None


def config_dir(checkout: Path | None) -> Path:
    """Return the host's folder with ``default.yaml`` and, in a checkout, ``algs/`` and ``envs/``; see ``locate``."""
    return BUNDLED / "config" if checkout is None else checkout / "src/config"


def use_host_config_dir(path: Path) -> None:
    """Set the folder of the host's ``default.yaml``, ``algs/`` and ``envs/``."""
    global _host_config_dir
    _host_config_dir = path


def host_config_dir() -> Path:
    """Return the folder that ``use_host_config_dir`` set; before its first call, a folder that does not exist."""
    return _host_config_dir


def path_component(name: str) -> str:
    """Turn a name chosen by a user or an environment into a safe folder name.

    Letters of any alphabet, digits, blanks and most symbols are kept. These become ``_``: separators, wildcards,
    control characters, a leading dot, dash, tilde or blank, and a trailing dot or blank. A long name is cut. A changed
    name gets a hash of the original, so that two names never share a folder.
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
    """Replace a leading ``~`` or ``~user`` in a path that was set by ``key``.

    Raises:
        ConfigError: the user does not exist.
    """
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ConfigError(
            f"{key}={path} begins with the home of a user who does not exist; set {key} to an absolute path, or to "
            f"./{path} for a folder with that name."
        )
    return full
