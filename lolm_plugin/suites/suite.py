"""A suite: algorithms, maps, transfers and seeds in one yaml file, and the runs that it defines.

A short suite file, for ``lolm compare FILE``. docs/experiments.md explains all keys; config/suites has more examples::

    description: Two networks on small SMAX battles
    env: smax                                           # --env-config
    algorithms:
      updet_mappo: {}                                   # a name for --config
      wide: {config: updet_mappo, with: {lr: 0.001}}    # a label with other settings
      rnn_mappo: {transfer: False}                      # fits one map only
    maps: [3m, 3m+5m]                                   # each algorithm learns each from scratch; 3m+5m: both at once
    transfers: [{source: 3m, target: 4m}]
    seeds: [1, 2, 3]
    with: {t_max: 20000, test_nepisode: 32}             # settings of every run
    few_shot: {t_max: 10000}                            # learn on the target; without it, transfers are zero-shot only
    zero_shot: {test_nepisode: 64}                      # play the target without learning
    budget: {days: 1, tflops: 60, env_steps_per_second: 150}  # for an estimate of the time by arithmetic
"""

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
from lolm_plugin.maps import KEY, of_label
from lolm_plugin.paths import path_component
from lolm_plugin.suites.cost import Rates

SET_FOR_EACH_RUN = ("seed", "name", "transfer_from", "evaluate", "checkpoint_path", "local_results_path", "save_model")

Kind = Literal["scratch", "zero_shot", "few_shot"]


@dataclass(frozen=True)
class Run:
    """A training or evaluation run. ``key`` is its folder below the suite's ``runs`` folder."""

    kind: Kind
    algorithm: str  # its name in the suite
    config: str  # for --config
    env: str  # for --env-config
    map_name: str  # several maps are joined: 3m+5m
    seed: int
    settings: Mapping[str, Any] = field(hash=False)  # flat, for the command line after `with`
    source: "Run | None" = None  # the run whose weights a transfer starts from

    @property
    def key(self) -> str:
        maps = f"{self.source.map_name}-to-{self.map_name}" if self.source else self.map_name
        return f"{self.kind}/{path_component(self.algorithm)}/{path_component(maps)}/{self.seed}"

    @property
    def title(self) -> str:
        """Return the run's name for messages."""
        maps = f"{self.source.map_name} to {self.map_name}" if self.source else self.map_name
        kind = "" if self.kind == "scratch" else f" {self.kind.replace('_', '-')}"
        return f"{self.algorithm}{kind} {maps} seed {self.seed}"

    def arguments(self) -> list[str]:
        """Return the command line after ``main.py``, without ``transfer_from``: the source may not have run yet."""
        settings = [f"{key}={written(value)}" for key, value in self.settings.items()]
        return [f"--config={self.config}", f"--env-config={self.env}", "with", *settings]


SECTION = "a section; write key: value pairs below it"
SEEDS = "a list of whole numbers, each once; write it as [1, 2, 3]"
NAMES = "a list of names, or names with options below them; write it as [a, b]"


def _by_name(value: Any) -> Any:
    """Convert a list of names to a mapping from name to options. Null options become empty."""
    if isinstance(value, list):
        return {str(name): {} for name in value}
    return {str(name): options or {} for name, options in value.items()} if isinstance(value, Mapping) else value or {}


def _unique(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("twice")
    return seeds


Seeds = Annotated[list[int], Field(min_length=1, description=SEEDS), AfterValidator(_unique)]


class _Part(BaseModel):
    """A section of a suite file. Unknown keys are refused. A field's description ends the error about that field."""

    model_config = ConfigDict(extra="forbid", strict=True)
    settings: dict[str, Any] | None = Field(None, alias="with", description=SECTION)


class Algorithm(_Part):
    """Options of one algorithm. Without ``seeds`` or ``maps``, the suite's apply."""

    config: str = Field("", description="the name of a configuration; write it as config: updet_mappo")
    seeds: Seeds = []
    maps: list[str] = Field(
        [], min_length=1, description="a list of names; write it as [a, b], or leave it out for all"
    )
    transfer: bool = Field(True, description="True or False; write it as transfer: False")


class Transfer(_Part):
    """A transfer from one map to another. ``settings`` apply to its few-shot runs."""

    source: Annotated[str, BeforeValidator(str), Field(description="a map; write {source: 3m, target: 8m}")]
    target: Annotated[str, BeforeValidator(str), Field(description="a map; write {source: 3m, target: 8m}")]


class Budget(BaseModel):
    """Assumed rates of one GPU, for an estimate of the time by arithmetic, and the days that the suite may take."""

    model_config = ConfigDict(extra="forbid", strict=True)
    days: float | None = Field(None, gt=0, description="a number of days; write it as days: 7")
    tflops: float = Field(gt=0, description="a number of 10^12 operations per second; write it as tflops: 60")
    env_steps_per_second: float = Field(gt=0, description="a number; write it as env_steps_per_second: 150")

    @property
    def rates(self) -> Rates:
        """The rates without the days."""
        return Rates(self.tflops, self.env_steps_per_second)


class Suite(_Part):
    """The content of a suite file."""

    description: str | None = Field("", description="a text")
    env: str = Field(min_length=1, description="a name for --env-config; write it as env: smax")
    algorithms: Annotated[dict[str, Algorithm], BeforeValidator(_by_name)] = Field(min_length=1, description=NAMES)
    maps: Annotated[dict[str, dict[str, Any]], BeforeValidator(_by_name)] = Field({}, description=NAMES)
    transfers: Annotated[list[Transfer], BeforeValidator(lambda value: value or [])] = Field(
        [], description="a list of {source: 3m, target: 8m}, with few-shot settings under with"
    )
    seeds: Seeds = [1]
    few_shot: dict[str, Any] | None = Field(None, description=SECTION)
    zero_shot: dict[str, Any] | None = Field(None, description=SECTION)
    budget: Budget | None = Field(None, description=SECTION)
    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Return the file's name without its extension."""
        return self._name

    @model_validator(mode="after")
    def _check(self) -> "Suite":
        if not self.maps and not self.transfers:
            raise ValueError(" names neither maps nor transfers, so nothing would run; set one of the two")
        for name in self.algorithms:
            if path_component(name) != name:
                raise ValueError(f": algorithms.{name} cannot name a folder of results; write mine: {{config: NAME}}")
        for transfer in self.transfers:
            if transfer.source == transfer.target:
                raise ValueError(f": the transfer from {transfer.source} has the same target; set another target")
        parts: list[_Part] = [self, *self.algorithms.values(), *self.transfers]
        for section in [self.few_shot, self.zero_shot, *self.maps.values(), *(part.settings for part in parts)]:
            nested(flatten(section or {}), "in the suite")
            if own := [key for key in flatten(section or {}) if key in SET_FOR_EACH_RUN]:
                raise ValueError(f": {own[0]} is set by the suite itself, for each run; leave it out")
        return self

    def runs(self) -> list[Run]:
        """List every run once, each source before its transfers.

        A transfer adds its source and, with ``few_shot``, its target from scratch for comparison. ``maps`` need not
        have these.
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
        task = {"env_args.key": map_name} if self.env == "gymma" else {KEY: of_label(map_name)}
        settings = {**task, **settings}
        for key in ("env_args.map_file", "llm.model"):  # a path becomes absolute, as each run starts in its own folder
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
    """Return the suites that come with the package, by name."""
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
    """Parse the content of a suite file. The configurations that it names are checked in ``plan``."""
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}{_sentence(error)}.") from error
    suite._name = path_component(path.stem)
    return suite


def _sentence(error: ValidationError) -> str:
    """Describe the first error. The text continues a sentence that begins with the file's name."""
    first = error.errors()[0]
    loc = [str(key) for key in first["loc"]]
    if not loc:  # raised by Suite._check
        return str(first["ctx"]["error"])
    # Sections whose keys are checked, and the depth of these keys.
    parts: dict[str, tuple[type[BaseModel], int]] = {"algorithms": (Algorithm, 2), "transfers": (Transfer, 2)}
    parts["budget"] = (Budget, 1)
    part, depth = parts.get(loc[0], (Suite, 0))
    if len(loc) <= depth:
        part, depth = Suite, 0
    fields = {field.alias or name: field for name, field in part.model_fields.items()}
    if first["type"] == "extra_forbidden":
        return f": {'.'.join(loc)} is unknown{did_you_mean(loc[-1], fields)}; the keys are {', '.join(fields)}"
    key = loc[depth]
    what = fields[key].description if key in fields else first["msg"]
    if first["type"] == "missing":
        return f" has no {'.'.join(loc)}, which is {what}"
    return f": {'.'.join(loc)}={first['input']} cannot be used, as {key} is {what}"


def _yaml(name: str) -> str:
    """Make a path for ``--config`` or ``--env-config`` absolute, as each run starts in its own folder. Names stay."""
    is_path = name[:1] != "~" and (os.sep in name or name.endswith(".yaml"))
    return os.path.abspath(name) if is_path else name
