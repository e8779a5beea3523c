"""Find, read and merge the yaml files behind ``--config`` and ``--env-config``."""

import copy
import functools
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm_plugin import maps
from lolm_plugin.configuration.strict_yaml import RepeatedKeyError, StrictYamlError, load
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.paths import expand_home

HOST_ENVS = ("sc2", "sc2v2", "smaclite")  # EPyMARL's own; the bundled host does not have them
MOST_BYTES = 1_000_000  # of a yaml file; the longest of ours has about 20,000
OPTIONS = {"algs": "--config", "envs": "--env-config"}


@dataclass(frozen=True)
class Resolved:
    """A run's yaml files. Later files override earlier ones; an algorithm comes after those that it extends."""

    base: tuple[Path, ...]
    algorithms: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in order of increasing priority."""
        return self.base + self.algorithms

    @property
    def config(self) -> dict[str, Any]:
        """Merged settings of the files, presets and map. Keys and types are not checked."""
        return merge_all(layer.settings for layer in stack(self, {}))


@dataclass(frozen=True)
class Layer:
    """Settings of one source: a file, its ``section`` for a map or a preset, or the command line."""

    settings: Mapping[str, Any]
    path: Path | None = None  # None: the command line
    section: str = ""  # a map's or a preset's name
    preset: bool = False

    @property
    def where(self) -> str:
        """Return the source for an error sentence, such as ``in FILE``."""
        return f"in {self.path}" if self.path else "on the command line"

    @property
    def source(self) -> str:
        """Return the source for the log: the file's path as in a checkout, and its section."""
        assert self.path is not None, "the log does not repeat the command line"
        name = f"config/{self.path.parent.name}/{self.path.name}"
        return f"{name} for {self.section}" if self.section else name


def plugin_config_dir() -> Path:
    """Return the folder of our yaml files: inside the package in a wheel, next to it in a checkout."""
    inside = Path(__file__).parents[1] / "config"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "config"


def available(kind: str, host_dir: Path) -> dict[str, Path]:
    """Return every name that ``--config`` (kind ``algs``) or ``--env-config`` (``envs``) takes, with its file.

    Our files override the host's. Our files for EPyMARL's environments count only if the host has these environments.
    """
    folders = (host_dir / kind, plugin_config_dir() / kind)
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    missing = {name for name in HOST_ENVS if kind == "envs" and not (host_dir / f"envs/{name}.yaml").is_file()}
    return {name: path for name, path in found.items() if name not in missing}


def find(kind: str, name: str | None, host_dir: Path, option: str = "") -> Path:
    """Return the yaml file of a name or a path, with or without ``.yaml``. Errors name ``option``."""
    known = available(kind, host_dir)
    option = option or OPTIONS[kind]
    if not name:
        raise ConfigError(f"{option} is missing; set it to one of: {', '.join(sorted(known))}.")
    if name in known:
        return known[name]
    home = expand_home(name, option)
    for path in (Path(home), Path(f"{home}.yaml")):
        if path.suffix == ".yaml" and os.path.isfile(path):  # False, not an OSError, for a name that is too long
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
    """Read a yaml file as a dict. Raises ConfigError if it is not valid, or has a key twice."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); make it readable, or name another file."
        ) from error
    if content is None:
        raise ConfigError(f"{path} has more than {MOST_BYTES} bytes, so it is not a configuration; name another file.")
    try:
        parsed = _parsed(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}, and only the last one would count; remove one of them.") from error
    except StrictYamlError as error:
        raise ConfigError(f"{path} is not valid yaml ({error}); correct that line.") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path} holds no key: value pairs; write one `key: value` per line.")
    return copy.deepcopy(parsed)


@functools.lru_cache(maxsize=256)
def _parsed(content: bytes) -> Any:
    """Parse a text, cached per process: each start, and each run of a suite, reads every algorithm's file."""
    return load(content)


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``update`` over ``base``, key by key also in nested mappings. Neither is changed."""
    merged = dict(base)
    for key, value in update.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            value = merge(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys to dotted ones, such as ``env_args.map_name``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge_all(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge all settings; later ones override earlier ones."""
    return functools.reduce(merge, settings, {})


def resolve(alg: str | None, env: str | None, host_dir: Path) -> Resolved:
    """Find a run's yaml files in EPyMARL's order: defaults, environment, algorithm.

    An algorithm that ``extends`` another inherits its settings. The keys that it ``leaves_out`` keep the environment's
    values or the defaults. The host's own algorithms do not get our defaults: their records stay as the host writes
    them.
    """
    algorithms, env_file = _extended(find("algs", alg, host_dir), host_dir), find("envs", env, host_dir)
    defaults = [host_dir / "default.yaml"]
    if not algorithms[-1].is_relative_to(host_dir):
        defaults.append(plugin_config_dir() / "default.yaml")
    return Resolved((*defaults, env_file), algorithms)


def stack(resolved: Resolved, updates: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a configuration. Later layers override earlier ones; the ``updates`` are last.

    An algorithm's settings for a map come directly after its file. A preset comes directly before the layer that names
    it. So an algorithm's file overrides its preset, and the command line overrides everything.
    """
    files = [Layer(_settings(path), path) for path in resolved.base]
    for i, path in enumerate(resolved.algorithms):
        left_out = [key for above in resolved.algorithms[i + 1 :] for key in read(above).get("leaves_out", ())]
        files.append(Layer(_without(_settings(path), left_out), path))
    chosen = merge_all([*(layer.settings for layer in files), updates])
    map_name = str(flatten(chosen).get("env_args.map_name"))
    layers: list[Layer] = []
    for layer in files:
        layers.append(layer)
        if layer.path in resolved.algorithms:
            layers += _map_layer(layer.path, map_name)
    to_source = flatten(chosen).get("kl.reference") == "source"
    if chosen.get("transfer_from") and not to_source and plugin_config_dir() / "default.yaml" in resolved.base:
        layers.append(Layer({"kl": {"enabled": False}}))  # the KL to the pretrained model (paper, section 4.3)
    layers.append(Layer(updates))
    for key, find_preset in (("learner_preset", _learner_preset), ("preset", _preset)):
        naming = [i for i, layer in enumerate(layers) if key in layer.settings]
        name = layers[naming[-1]].settings[key] if naming else None
        if name is not None:
            layers[naming[-1] : naming[-1]] = find_preset(str(name), resolved, layers[naming[-1]])
    return layers


def known_keys(host_dir: Path) -> dict[str, Any]:
    """Return every flat key of all defaults and algorithms, with an example of its value.

    Keys under ``env_args`` are left out: each belongs to one environment.
    """
    known: dict[str, Any] = {}
    paths = [*available("algs", host_dir).values(), plugin_config_dir() / "default.yaml", host_dir / "default.yaml"]
    for path in paths:
        for key, value in flatten(_settings(path)).items():
            if value is not None or key not in known:  # null does not show the type
                known[key] = value
    return {key: value for key, value in known.items() if not key.startswith("env_args")}


def _settings(path: Path) -> dict[str, Any]:
    """Return a file's settings, without its ``extends`` and ``leaves_out``."""
    found = {key: value for key, value in read(path).items() if key not in ("extends", "leaves_out")}
    env_args = found.get("env_args")
    if isinstance(env_args, dict) and isinstance(env_args.get("map_name"), list | dict):
        split = maps.settings(env_args["map_name"], f"in {path}")
        found["env_args"] = {**env_args, "map_name": split.pop(maps.KEY)}
        found |= split
    return found


def _without(settings: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return the settings without the given flat keys. The name of a section removes the whole section."""
    kept = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            value = _without(value, keys, f"{prefix}{key}.")
            if not value:
                continue
        if f"{prefix}{key}" not in keys:
            kept[key] = value
    return kept


def _extended(path: Path, host_dir: Path) -> tuple[Path, ...]:
    """Return the files that an algorithm extends, the base first, and then its own."""
    chain = [path]
    while (name := read(chain[0]).get("extends")) is not None:
        where = f"{chain[0]}: extends"
        if not isinstance(name, str):
            raise ConfigError(f"{where}={name} is not a name; write `extends: ALGORITHM`.")
        left_out = read(chain[0]).get("leaves_out", [])
        if not isinstance(left_out, list) or not all(isinstance(key, str) for key in left_out):
            raise ConfigError(f"{chain[0]}: leaves_out={left_out} is not a list of keys; write `leaves_out: [KEY]`.")
        below = find("algs", name, host_dir, option=where)
        if any(below.resolve() == above.resolve() for above in chain):
            loop = " -> ".join(file.stem for file in (*chain[::-1], below))
            raise ConfigError(f"{where}={name} closes a loop ({loop}); remove `extends` from one of them.")
        chain.insert(0, below)
    return tuple(chain)


def _ours(folder: str, algorithm: Path) -> Path | None:
    """Return the file of a shipped algorithm in ``folder``, if there is one."""
    shipped = algorithm.resolve().parent == (plugin_config_dir() / "algs").resolve()
    path = plugin_config_dir() / folder / algorithm.name
    return path if shipped and path.is_file() else None


def _map_layer(algorithm: Path, map_name: str) -> list[Layer]:
    """Return an algorithm's settings for a map, from ``config/maps/ALGORITHM.yaml`` or the file that it names."""
    path = _ours("maps", algorithm)
    if path is None:
        return []
    table = read(path)
    if "same_as" in table:
        path = path.with_name(f"{table['same_as']}.yaml")
        table = read(path)
    return [Layer(table[map_name], path, map_name)] if map_name in table else []


def _learner_preset(name: str, resolved: Resolved, named: Layer) -> list[Layer]:
    """Return the layer of a file in ``config/learners``. The host's own algorithms have no such presets."""
    ours = plugin_config_dir() / "default.yaml" in resolved.base
    files = {path.stem: path for path in sorted((plugin_config_dir() / "learners").glob("*.yaml")) if ours}
    _check_preset("learner_preset", name, files, resolved, named)
    return [Layer(read(files[name]), files[name], preset=True)]


def _preset(name: str, resolved: Resolved, named: Layer) -> list[Layer]:
    """Return the sections ``name`` in ``config/presets`` of an algorithm and those that it extends."""
    tables = {path: read(path) for algorithm in resolved.algorithms if (path := _ours("presets", algorithm))}
    _check_preset("preset", name, {key for table in tables.values() for key in table}, resolved, named)
    return [Layer(table[name], path, name, preset=True) for path, table in tables.items() if name in table]


def _check_preset(key: str, name: str, known: Collection[str], resolved: Resolved, named: Layer) -> None:
    algorithm = resolved.algorithms[-1].stem
    if not known:
        raise ConfigError(f"{key}={name} {named.where} cannot be used, as {algorithm} has none; leave {key} out.")
    if name not in known:
        raise ConfigError(
            f"{key}={name} {named.where} is unknown to {algorithm}{did_you_mean(name, known)}; "
            f"set {key} to one of: {', '.join(sorted(known))}."
        )
