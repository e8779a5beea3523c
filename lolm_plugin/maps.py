"""The maps of a run: one name, a list of names, or names with weights, and the share of episodes of each map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_generator

KEY, WEIGHTS, TEST_MAPS = "env_args.map_name", "map_weights", "test_maps"
FOR_EXAMPLE = "[3m,8m] or {3m: 2, 8m: 1}"
MOST_MAPS = 64  # each map has its own environments; a larger limit allows more memory and processes


@dataclass(frozen=True)
class TrainingMap:
    """A map and the weight of its episodes: ``begin`` at step 0, ``end`` at ``t_max``, linear between them."""

    name: str
    begin: float = 1.0
    end: float = 1.0

    def weight(self, share: float) -> float:
        """Return the weight after ``share`` (0 to 1) of the run."""
        return self.begin + (self.end - self.begin) * min(1.0, share)


def settings(value: Any, where: str) -> dict[str, Any]:
    """Split a value of ``env_args.map_name`` into flat settings: one name or a list of names, and their weights.

    A list of one map is that map. Any other value than a list or a mapping is returned unchanged.

    Raises:
        ConfigError: a list or a mapping is empty or has something else than names, or a name appears twice.
    """
    if not isinstance(value, list | Mapping):
        return {KEY: value}
    names = list(value)
    if not _are_names(names):
        raise ConfigError(
            f"{KEY}={value} {where} is not a list of 1 to {MOST_MAPS} maps; set {KEY} to one map, or to maps such as "
            f"{FOR_EXAMPLE}."
        )
    check_distinct(KEY, names, where)
    if len(names) == 1:
        return {KEY: names[0]}
    return {KEY: names} | ({WEIGHTS: list(value.values())} if isinstance(value, Mapping) else {})


def _are_names(names: Sequence[Any]) -> bool:
    return 0 < len(names) <= MOST_MAPS and all(isinstance(name, str) and name for name in names)


def is_list_of_maps(value: Any) -> bool:
    """Return True for a list of several distinct names, as ``settings`` makes it."""
    return isinstance(value, list) and _are_names(value) and 1 < len(value) == len(set(value))


def check_distinct(key: str, names: Sequence[str], where: str = "") -> None:
    """Raise ConfigError if a name appears twice."""
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"{key} {where} has {repeated[0]} twice; leave one out.".replace("  ", " "))


def names(value: Any) -> list[str]:
    """Return the names in a value of ``env_args.map_name``: one or several."""
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def label(value: Any) -> str:
    """Return one text for a value of ``env_args.map_name``, such as ``3m`` or ``3m+8m``."""
    return "+".join(names(value))


def of_label(text: str) -> str | list[str]:
    """Return the value of ``env_args.map_name`` that ``label`` shows as ``text``."""
    return text.split("+") if "+" in text else text


def each(config: Mapping[str, Any], with_test_maps: bool = True) -> Iterator[dict[str, Any]]:
    """Yield a copy of the configuration for each of its maps, and for each of its ``test_maps``."""
    env_args = config["env_args"]
    if not several(config):
        yield dict(config)
    else:
        yield from ({**config, "env_args": {**env_args, "map_name": name}} for name in env_args["map_name"])
    if with_test_maps:
        for name in config.get(TEST_MAPS) or ():
            yield {**config, "env_args": {**env_args, "map_name": name}}


def several(config: Mapping[str, Any]) -> bool:
    """Return True if a run trains on more than one map."""
    return isinstance(config["env_args"].get("map_name"), list)


def refuse_several(config: Mapping[str, Any], command: str) -> None:
    """Raise ConfigError if the configuration has more than one map, for a ``command`` that shows or measures one."""
    if several(config):
        given = label(config["env_args"]["map_name"])
        raise ConfigError(f"{command} takes one map, but {KEY} has {given}; set {KEY} to one of them.")


def training_maps(args: Any) -> list[TrainingMap]:
    """Return the maps of a run with many, in an order that does not depend on the order in which they were written."""
    listed = args.env_args["map_name"]
    weights = getattr(args, WEIGHTS, None) or [1.0] * len(listed)
    pairs = [weight if isinstance(weight, list) else [weight, weight] for weight in weights]
    found = [TrainingMap(name, *map(float, pair)) for name, pair in zip(listed, pairs, strict=True)]
    return sorted(found, key=lambda training: (len(training.name), training.name))


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error sentence for each value of the maps and weights that cannot be used."""
    listed, weights = config["env_args"].get("map_name"), config.get(WEIGHTS)
    if weights is None:
        return
    if not isinstance(listed, list):
        yield f"{WEIGHTS}={weights} has no effect with one map; set {KEY} to maps such as {FOR_EXAMPLE}."
    elif not isinstance(weights, list) or len(weights) != len(listed):
        yield f"{WEIGHTS}={weights} is not one weight for each of {label(listed)}; set {KEY} to {FOR_EXAMPLE}."
    else:
        for name, weight in zip(listed, weights, strict=True):
            if not is_weight(weight):
                yield (
                    f"The weight {weight} of {name} in {KEY} is neither a number of 0 or more nor two of them; set it "
                    "to one such as 2, or to [begin, end] such as [1, 0]."
                )
                return
        for end, moment in enumerate(("at the start", "at the end")):
            if not sum(weight[end] if isinstance(weight, list) else weight for weight in weights):
                yield f"The weights of {KEY} are all 0 {moment} of the run; set one of them above 0."


def is_weight(value: Any) -> bool:
    """Return True for a number from 0 to a million, or for two of them: at the start and at the end of the run."""
    if isinstance(value, list):
        return len(value) == 2 and not any(isinstance(one, list) for one in value) and all(map(is_weight, value))
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1_000_000


def draw_counts(maps: Sequence[TrainingMap], episodes: int, args: Any, t_env: int) -> list[int]:
    """Draw the map of each of the next ``episodes``, keyed by seed and step; return the episodes of each map."""
    weights = np.array([each.weight(t_env / max(1, args.t_max)) for each in maps])
    limits = weights.cumsum() / weights.cumsum()[-1]
    # A draw is below 1, the last limit. A map with weight 0 has the limit of the map before it and is never drawn.
    chosen = np.searchsorted(limits, keyed_generator(args.seed, "map", t_env).random(episodes), side="right")
    return np.bincount(chosen, minlength=len(maps)).tolist()
