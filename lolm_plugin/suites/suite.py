"""A suite: algorithms, maps, transfers and seeds in one yaml file, and the runs that it stands for."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from lolm_plugin.configuration.config_files import flatten, merge_all, plugin_config_dir, read
from lolm_plugin.configuration.updates import nested, written
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.llm.sources import SMOLLM2, TINY
from lolm_plugin.paths import path_component

SET_FOR_EACH_RUN = ("seed", "name", "transfer_from", "evaluate", "checkpoint_path", "local_results_path", "save_model")

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
    settings: Mapping[str, Any] = field(hash=False)  # flat, for the command line after `with`
    source: "Run | None" = None  # whose weights it begins with

    @property
    def key(self) -> str:
        maps = f"{self.source.map_name}-to-{self.map_name}" if self.source else self.map_name
        return f"{self.kind}/{path_component(self.algorithm)}/{path_component(maps)}/{self.seed}"

    @property
    def title(self) -> str:
        """The run's name for people."""
        maps = f"{self.source.map_name} to {self.map_name}" if self.source else self.map_name
        kind = "" if self.kind == "scratch" else f" {self.kind.replace('_', '-')}"
        return f"{self.algorithm}{kind} {maps} seed {self.seed}"

    def arguments(self) -> list[str]:
        """Return the command line after ``main.py``, without the source's weights, which exist once it has run."""
        settings = [f"{key}={written(value)}" for key, value in self.settings.items()]
        return [f"--config={self.config}", f"--env-config={self.env}", "with", *settings]


SECTION = "a section; write key: value pairs below it"
SEEDS = "a list of whole numbers, each once; write it as [1, 2, 3]"
NAMES = "a list of names, or names with options below them; write it as [a, b]"


def _by_name(value: Any) -> Any:
    """Turn a list of names into names without options; options left empty are none."""
    if isinstance(value, list):
        return {str(name): {} for name in value}
    return {str(name): options or {} for name, options in value.items()} if isinstance(value, Mapping) else value or {}


def _unique(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("twice")
    return seeds


Seeds = Annotated[list[int], Field(min_length=1, description=SEEDS), AfterValidator(_unique)]


class _Part(BaseModel):
    """A part of a suite file. A key that it does not have is refused; descriptions end the sentence of an error."""

    model_config = ConfigDict(extra="forbid", strict=True)
    settings: dict[str, Any] | None = Field(None, alias="with", description=SECTION)


class Algorithm(_Part):
    """An algorithm's own options; seeds and maps are those of the suite if they are not set."""

    config: str = Field("", description="the name of a configuration; write it as config: updet_mappo")
    seeds: Seeds = []
    maps: list[str] = Field(
        [], min_length=1, description="a list of names; write it as [a, b], or leave it out for all"
    )
    transfer: bool = Field(True, description="True or False; write it as transfer: False")


class Transfer(_Part):
    """From one map to another; ``settings`` are for learning on the target after it."""

    source: Annotated[str, BeforeValidator(str), Field(description="a map; write {source: 3m, target: 8m}")]
    target: Annotated[str, BeforeValidator(str), Field(description="a map; write {source: 3m, target: 8m}")]


class Suite(_Part):
    """A suite file."""

    description: str | None = Field("", description="a text")
    env: str = Field(min_length=1, description="a name for --env-config; write it as env: smax")
    algorithms: Annotated[dict[str, Algorithm], BeforeValidator(_by_name)] = Field(min_length=1, description=NAMES)
    maps: Annotated[dict[str, dict[str, Any]], BeforeValidator(_by_name)] = Field({}, description=NAMES)
    transfers: Annotated[list[Transfer], BeforeValidator(lambda value: value or [])] = Field(
        [], description="a list of {source: 3m, target: 8m}, with settings of their own for few-shot under with"
    )
    seeds: Seeds = [1]
    few_shot: dict[str, Any] | None = Field(None, description=SECTION)
    zero_shot: dict[str, Any] | None = Field(None, description=SECTION)
    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self._name

    @model_validator(mode="after")
    def _check(self) -> "Suite":
        if not self.maps and not self.transfers:
            raise ValueError(" names neither maps nor transfers, so nothing would run; set one of the two")
        for name in self.algorithms:
            if path_component(name) != name:
                raise ValueError(f": algorithms.{name} names folders of results, which it cannot; call it mine")
        for transfer in self.transfers:
            if transfer.source == transfer.target:
                raise ValueError(f": the transfer from {transfer.source} to itself leads nowhere; set another target")
        parts: list[_Part] = [self, *self.algorithms.values(), *self.transfers]
        for section in [self.few_shot, self.zero_shot, *self.maps.values(), *(part.settings for part in parts)]:
            nested(flatten(section or {}), "in the suite")
            if own := [key for key in flatten(section or {}) if key in SET_FOR_EACH_RUN]:
                raise ValueError(f": {own[0]} is set by the suite itself, for each run; leave it out")
        return self

    def runs(self) -> list[Run]:
        """List every run, sources before the runs that begin with them. A source is trained once.

        A transfer's source and its target from scratch, to compare with, belong to it, in ``maps`` or not.
        """
        runs: dict[str, Run] = {}
        for run in self._runs():
            runs.setdefault(run.key, run)
        return list(runs.values())

    def _runs(self) -> Iterator[Run]:
        further = [seed for options in self.algorithms.values() for seed in options.seeds]
        for seed in dict.fromkeys((*self.seeds, *further)):
            for algorithm, options in self.algorithms.items():
                if seed not in (options.seeds or self.seeds):
                    continue
                for map_name in options.maps or self.maps:
                    yield self._run("scratch", algorithm, map_name, seed)
                for transfer in self.transfers if options.transfer else ():
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
        of_transfer: dict[str, Any] | None = None,
    ) -> Run:
        options = self.algorithms[algorithm]
        of_kind = {"scratch": {}, "few_shot": self.few_shot, "zero_shot": {**(self.zero_shot or {}), "evaluate": True}}
        layers = (self.settings, self.maps.get(map_name), of_kind[kind], of_transfer, options.settings)
        settings = flatten(merge_all(nested(flatten(layer or {}), "in the suite") for layer in layers))
        settings = {"env_args.key" if self.env == "gymma" else "env_args.map_name": map_name, **settings}
        for key in ("env_args.map_file", "llm.model"):  # a path here, as each run starts in a folder of its own
            name = settings.get(key)
            if isinstance(name, str) and name not in ("", SMOLLM2, *TINY) and os.path.exists(name):
                settings[key] = os.path.abspath(name)
        config = options.config or algorithm
        if config != algorithm:
            settings["name"] = algorithm
        settings["seed"] = seed
        if kind != "zero_shot":
            settings["save_model"] = True
        return Run(kind, algorithm, _yaml(config), _yaml(self.env), map_name, seed, settings, source)


def available() -> dict[str, Path]:
    """List the suites that come with the package."""
    return {path.stem: path for path in sorted((plugin_config_dir() / "suites").glob("*.yaml"))}


def load(name: str) -> Suite:
    """Read a shipped suite by its name, or a yaml file. Raises ConfigError, which names the key to change."""
    known = available()
    path = known.get(name, Path(name))
    if not os.path.isfile(path):
        raise ConfigError(
            f"{name} is neither a suite{did_you_mean(name, known)} nor a yaml file; suites: {', '.join(known)}."
        )
    return parse(read(path), path)


def parse(content: Mapping[str, Any], path: Path) -> Suite:
    """Check a suite file's content, as far as that goes without looking at configurations."""
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}{_sentence(error)}.") from error
    suite._name = path_component(path.stem)
    return suite


def _sentence(error: ValidationError) -> str:
    """Say what is wrong first, as the rest of a sentence that begins with the file's name."""
    first = error.errors()[0]
    loc = [str(key) for key in first["loc"]]
    if not loc:  # of Suite._check
        return str(first["ctx"]["error"])
    parts: dict[str, type[_Part]] = {"algorithms": Algorithm, "transfers": Transfer}
    part = parts.get(loc[0], Suite) if len(loc) > 2 else Suite
    fields = {field.alias or name: field for name, field in part.model_fields.items()}
    if first["type"] == "extra_forbidden":
        return f": {'.'.join(loc)} is unknown{did_you_mean(loc[-1], fields)}; the keys are {', '.join(fields)}"
    key = loc[0] if part is Suite else loc[2]
    what = fields[key].description if key in fields else first["msg"]
    if first["type"] == "missing":
        return f" has no {'.'.join(loc)}, which is {what}"
    return f": {'.'.join(loc)}={first['input']} cannot be used, as {key} is {what}"


def _yaml(name: str) -> str:
    """Make a path for ``--config`` or ``--env-config`` absolute, as each run starts in its own folder; keep a name."""
    is_path = name[:1] != "~" and (os.sep in name or name.endswith(".yaml"))
    return os.path.abspath(name) if is_path else name
