"""A suite: algorithms, maps, transfers and seeds in one yaml file, and the runs that it stands for."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lolm_plugin.configuration.config_files import flatten, merge_all, plugin_config_dir, read
from lolm_plugin.configuration.updates import nested, written
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.llm.sources import SMOLLM2, TINY
from lolm_plugin.paths import path_component

KEYS = ("description", "env", "algorithms", "maps", "transfers", "seeds", "with", "few_shot", "zero_shot")
ALGORITHM_KEYS = ("config", "with", "seeds", "maps", "transfer")
TRANSFER_KEYS = ("source", "target", "with")
OURS = ("seed", "name", "transfer_from", "evaluate", "checkpoint_path", "local_results_path", "save_model")

Kind = Literal["scratch", "zero_shot", "few_shot"]


@dataclass(frozen=True)
class Run:
    """One training or evaluation. ``key`` is its folder below the suite's."""

    kind: Kind
    algorithm: str  # as the suite calls it
    config: str  # for --config
    env: str  # for --env-config
    map_name: str
    seed: int
    settings: Mapping[str, Any] = field(hash=False)  # flat, what stands after `with`
    source: "Run | None" = None  # whose weights it begins with

    @property
    def key(self) -> str:
        maps = f"{self.source.map_name}-to-{self.map_name}" if self.source else self.map_name
        return f"{self.kind}/{path_component(self.algorithm)}/{path_component(maps)}/{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        maps = f"{self.source.map_name} to {self.map_name}" if self.source else self.map_name
        kind = "" if self.kind == "scratch" else f" {self.kind.replace('_', '-')}"
        return f"{self.algorithm}{kind} {maps} seed {self.seed}"

    def arguments(self) -> list[str]:
        """The command line after ``main.py``; where the source's weights lie is known once it has run."""
        return [
            f"--config={self.config}",
            f"--env-config={self.env}",
            "with",
            *(f"{key}={written(value)}" for key, value in self.settings.items()),
        ]


@dataclass(frozen=True)
class Transfer:
    """From one map to another; ``settings`` are for learning on the target after it."""

    source: str
    target: str
    settings: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Suite:
    """What a suite file says."""

    name: str
    description: str
    env: str
    algorithms: Mapping[str, Mapping[str, Any]]
    maps: Mapping[str, Mapping[str, Any]]
    transfers: Sequence[Transfer]
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    few_shot: Mapping[str, Any] | None
    zero_shot: Mapping[str, Any]

    def runs(self) -> list[Run]:
        """Every run, those first that others begin with. A source is trained once, whatever begins with it.

        A transfer's source and its target from scratch, to compare with, belong to it, in ``maps`` or not.
        """
        found: dict[str, Run] = {}
        for run in self._runs():
            found.setdefault(run.key, run)
        return list(found.values())

    def _runs(self) -> Iterator[Run]:
        own = [seed for options in self.algorithms.values() for seed in options.get("seeds", ())]
        for seed in dict.fromkeys((*self.seeds, *own)):
            for algorithm, options in self.algorithms.items():
                if seed not in options.get("seeds", self.seeds):
                    continue
                for map_name in options.get("maps", self.maps):
                    yield self._run("scratch", algorithm, map_name, seed)
                for transfer in self.transfers if options.get("transfer", True) else ():
                    yield from self._transfer(algorithm, transfer, seed)

    def _transfer(self, algorithm: str, transfer: Transfer, seed: int) -> Iterator[Run]:
        yield (source := self._run("scratch", algorithm, transfer.source, seed))
        yield self._run("zero_shot", algorithm, transfer.target, seed, source)
        if self.few_shot is not None:
            yield self._run("scratch", algorithm, transfer.target, seed)
            yield self._run("few_shot", algorithm, transfer.target, seed, source, transfer.settings)

    def _run(
        self,
        kind: Kind,
        algorithm: str,
        map_name: str,
        seed: int,
        source: Run | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> Run:
        options = self.algorithms[algorithm]
        own = {"scratch": {}, "few_shot": self.few_shot or {}, "zero_shot": {**self.zero_shot, "evaluate": True}}[kind]
        layers = (self.settings, self.maps.get(map_name, {}), own, further or {}, options.get("with", {}))
        settings = flatten(merge_all(nested(flatten(layer), "in the suite") for layer in layers))
        place = "env_args.key" if self.env == "gymma" else "env_args.map_name"
        label = {} if options.get("config", algorithm) == algorithm else {"name": algorithm}
        settings = {place: map_name, **settings, **_files(settings), **label, "seed": seed}
        if kind != "zero_shot":
            settings["save_model"] = True
        config = _yaml(options.get("config", algorithm))
        return Run(kind, algorithm, config, _yaml(self.env), map_name, seed, settings, source)


def available() -> dict[str, Path]:
    """The suites that come with the package."""
    return {path.stem: path for path in sorted((plugin_config_dir() / "suites").glob("*.yaml"))}


def load(name: str) -> Suite:
    """A shipped suite by its name, or a yaml file; ConfigError says which key of it cannot be used."""
    known = available()
    path = known.get(name, Path(name))
    if not os.path.isfile(path):
        raise ConfigError(
            f"{name} is neither a suite{did_you_mean(name, known)} nor a yaml file; suites: {', '.join(known)}."
        )
    return parse(read(path), path)


def parse(content: Mapping[str, Any], path: Path) -> Suite:
    """A suite file's content, checked as far as it goes without looking at configurations."""
    _check_keys(content, KEYS, f"{path}")
    algorithms = _table(content, "algorithms", path)
    maps, seeds = _table(content, "maps", path), content.get("seeds", [1])
    transfers = [_transfer(transfer, path) for transfer in _list(content, "transfers", path)]
    if not content.get("env") or not isinstance(content["env"], str):
        raise ConfigError(f"{path} has no env; set it to a name for --env-config, such as env: smax.")
    if not maps and not transfers:
        raise ConfigError(f"{path} names neither maps nor transfers, so nothing would run; set one of the two.")
    _check_seeds(seeds, f"{path}: seeds")
    for name, options in algorithms.items():
        _check_algorithm(name, options, f"{path}: algorithms.{name}")
    suite = Suite(
        name=path_component(path.stem),
        description=str(content.get("description", "")),
        env=str(content["env"]),
        algorithms=algorithms,
        maps=maps,
        transfers=transfers,
        seeds=seeds,
        settings=_section(content, "with", f"{path}") or {},
        few_shot=_section(content, "few_shot", f"{path}"),
        zero_shot=_section(content, "zero_shot", f"{path}") or {},
    )
    sections = [suite.settings, suite.few_shot or {}, suite.zero_shot, *maps.values(), *(t.settings for t in transfers)]
    for section in [*sections, *(options.get("with", {}) for options in algorithms.values())]:
        nested(flatten(section), f"in {path}")
        if taken := [key for key in flatten(section) if key in OURS]:
            raise ConfigError(f"{path}: {taken[0]} is set by the suite itself, for each run; leave it out.")
    return suite


def _yaml(name: str) -> str:
    """Make a path for ``--config`` or ``--env-config`` absolute, as each run starts in its own folder; keep a name."""
    is_path = name[:1] != "~" and (os.sep in name or name.endswith(".yaml"))
    return os.path.abspath(name) if is_path else name


def _files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that name files or folders here, with absolute paths."""
    named = {key: settings.get(key) for key in ("env_args.map_file", "llm.model")}
    return {
        key: os.path.abspath(name)
        for key, name in named.items()
        if isinstance(name, str) and name not in ("", SMOLLM2, *TINY) and os.path.exists(name)
    }


def _table(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Mapping[str, Any]]:
    """Names with options, written as a mapping, or as a list for names alone."""
    value = content.get(key) or {}
    if isinstance(value, list):
        value = {str(name): {} for name in value}
    if not isinstance(value, Mapping) or not all(isinstance(options or {}, Mapping) for options in value.values()):
        raise ConfigError(f"{path}: {key} is neither a list of names nor names with options; write {key}: [a, b].")
    if not value and key == "algorithms":
        raise ConfigError(f"{path} names no algorithms; write them as algorithms: [updet_mappo, rnn_mappo].")
    return {str(name): dict(options or {}) for name, options in value.items()}


def _list(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {key}={value} is not a list; write its entries as {key}: [a, b].")
    return value


def _section(content: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any] | None:
    value = content.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key}={value} sets nothing; write key: value pairs below it.")
    return value


def _check_algorithm(name: str, options: dict[str, Any], where: str) -> None:
    """Check an algorithm's own options; its ``with`` becomes a mapping where it was left empty."""
    _check_keys(options, ALGORITHM_KEYS, where)
    if path_component(name) != name:
        raise ConfigError(f"{where} names folders of results, which it cannot; call it mine.")
    options["with"] = _section(options, "with", where) or {}
    if "seeds" in options:
        _check_seeds(options["seeds"], f"{where}.seeds")
    for key, kind, words, example in (("config", str, "a name", name), ("transfer", bool, "True or False", "False")):
        if key in options and not isinstance(options[key], kind):
            raise ConfigError(f"{where}.{key}={options[key]} is not {words}; write it as {key}: {example}.")
    if "maps" in options:
        maps = options["maps"]
        if not isinstance(maps, list) or not maps or not all(isinstance(map_name, str) for map_name in maps):
            raise ConfigError(
                f"{where}.maps={maps} is not a list of names; write maps: [a, b], or leave it out for all."
            )


def _transfer(transfer: Any, path: Path) -> Transfer:
    if not isinstance(transfer, Mapping) or not {"source", "target"} <= set(transfer) <= set(TRANSFER_KEYS):
        raise ConfigError(
            f"{path}: transfers has {transfer}; write each one as {{source: 3m, target: 8m}}, with settings of its own "
            "for few-shot under with."
        )
    source, target = str(transfer["source"]), str(transfer["target"])
    if source == target:
        raise ConfigError(f"{path}: the transfer from {source} to {target} leads nowhere; set another target.")
    return Transfer(source, target, _section(transfer, "with", f"{path}: transfers") or {})


def _check_seeds(seeds: Any, where: str) -> None:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{where}={seeds} is no list of whole numbers; write it as [1, 2, 3].")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}={seeds} has a seed twice, which is one run; leave it out once.")


def _check_keys(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in found:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{where}: {key} is unknown{hint}; the keys are {', '.join(known)}.")
