"""Finding, reading and merging the yaml files behind ``--config`` and ``--env-config``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lolm_plugin.errors import ConfigError, did_you_mean

HOST_ENVS = ("sc2", "sc2v2", "smaclite", "gymma")  # EPyMARL's own, which the bundled host does not have
OPTIONS = {"algs": "--config", "envs": "--env-config"}


@dataclass(frozen=True)
class Resolved:
    """A merged configuration and the files it came from, last one strongest."""

    config: dict[str, Any]
    files: tuple[Path, ...]


def plugin_config_dir() -> Path:
    """Our own yaml files: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "config"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "config"


def available(kind: str, host_dir: Path) -> dict[str, Path]:
    """Every name that ``--config`` (kind ``algs``) or ``--env-config`` (``envs``) knows; ours win over the host's.

    Our files for the host's own environments count only where the host has these.
    """
    folders = (host_dir / kind, plugin_config_dir() / kind)
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    missing = {name for name in HOST_ENVS if kind == "envs" and not (host_dir / f"envs/{name}.yaml").is_file()}
    return {name: path for name, path in found.items() if name not in missing}


def find(kind: str, name: str | None, host_dir: Path) -> Path:
    """The file behind a name or a path (with or without ``.yaml``)."""
    known = available(kind, host_dir)
    option = OPTIONS[kind]
    if not name:
        raise ConfigError(f"{option} is missing; set it to one of: {', '.join(sorted(known))}.")
    if name in known:
        return known[name]
    for path in (Path(name), Path(f"{name}.yaml")):
        if path.suffix == ".yaml" and path.is_file():
            return path
    if kind == "envs" and name in HOST_ENVS:
        raise ConfigError(
            f"{option}={name} needs an EPyMARL checkout, and none is in use; set EPYMARL_HOME or --epymarl to one, "
            f"or {option} to one of: {', '.join(sorted(known))}."
        )
    raise ConfigError(
        f"{option}={name} is neither a yaml file nor a known name{did_you_mean(name, known)}; "
        f"known: {', '.join(sorted(known))}."
    )


def read(path: Path) -> dict[str, Any]:
    """A yaml file as a dict."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid yaml ({reason}); correct that line.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no key: value pairs; write one `key: value` a line.")
    return content


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``update`` on top, nested mappings merged key by key; neither is changed."""
    merged = dict(base)
    for key, value in update.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            value = merge(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``env_args.map_name``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolve(alg: str | None, env: str | None, host_dir: Path) -> Resolved:
    """Defaults, then the environment's file, then the algorithm's, as EPyMARL merges them.

    Our defaults are left out for the host's own algorithms, whose records stay as the host writes them.
    """
    alg_file, env_file = find("algs", alg, host_dir), find("envs", env, host_dir)
    defaults = [host_dir / "default.yaml"]
    if not alg_file.is_relative_to(host_dir):
        defaults.append(plugin_config_dir() / "default.yaml")
    files = (*defaults, env_file, alg_file)
    config: dict[str, Any] = {}
    for path in files:
        config = merge(config, read(path))
    return Resolved(config, files)


def map_settings(algorithm: Path, map_name: Any) -> tuple[Path, dict[str, Any]]:
    """What an algorithm's file changes on a map, and in which file that stands: ``config/maps/ALGORITHM.yaml``."""
    path = plugin_config_dir() / "maps" / algorithm.name
    shipped = algorithm.resolve().parent == (plugin_config_dir() / "algs").resolve() and path.is_file()
    return path, read(path).get(str(map_name), {}) if shipped else {}


def known_keys(host_dir: Path) -> dict[str, Any]:
    """Every key of the host's and our defaults and of every algorithm, flat, with a value to infer its type from.

    The keys under ``env_args`` are not among them: those belong to one environment each.
    """
    known: dict[str, Any] = {}
    paths = [*available("algs", host_dir).values(), plugin_config_dir() / "default.yaml", host_dir / "default.yaml"]
    for path in paths:
        for key, value in flatten(read(path)).items():
            if value is not None or key not in known:  # null tells no type
                known[key] = value
    return {key: value for key, value in known.items() if not key.startswith("env_args")}
