"""Separate the settings that define an experiment from all others, for reports and for ``--resume``."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read
from lolm_plugin.configuration.fields import Mark
from lolm_plugin.configuration.schema import REMOVED, RENAMED, with_mark
from lolm_plugin.errors import ConfigError

TIME_LIMITS = {"time_limits": "truncated"}  # written into records and checkpoints; see ``upgrade_config``
# Keys that a resumed run may change: the machine, the length, the measurements. Its curve is still of one experiment.
RESUMABLE = with_mark(Mark.MACHINE) | with_mark(Mark.RESUMABLE)
# Keys that do not change the expected result of a test. A preset's name is one, because its settings are recorded too.
INCIDENTAL = with_mark(Mark.MACHINE) | with_mark(Mark.LABEL)
SCHEDULES = ("entropy_coef_end", "entropy_target_end")  # if set, they end at t_max, as lr_decay does


def upgrade_config(config: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration as this version would write it. ``noted`` holds facts recorded with it.

    Older versions did not store time limits. Their default, ``bootstrap_time_limit=True``, had the effect of null now.
    """
    upgraded = rename_keys(config)
    if upgraded.get("bootstrap_time_limit") is True and "time_limits" not in noted:
        upgraded["bootstrap_time_limit"] = None
    return upgraded


def rename_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested configuration of a record or a checkpoint with today's keys: renamed, or left out if removed."""
    renamed = dict(config)
    for key in REMOVED:
        section, _, old_key = key.partition(".")
        if isinstance(settings := renamed.get(section), Mapping):
            renamed[section] = {name: value for name, value in settings.items() if name != old_key}
    for old, new in RENAMED.items():
        section, _, old_key = old.partition(".")
        if isinstance(settings := renamed.get(section), Mapping) and old_key in settings:
            kept = {key: value for key, value in settings.items() if key != old_key}
            renamed[section] = {new.removeprefix(f"{section}."): settings[old_key], **kept}
    return renamed


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that define the experiment of a configuration, by flat key.

    A configuration of ours that lacks a key is from an older version. That version behaved as the key's default does
    now. ``t_max`` counts only if a schedule ends there.
    """
    flat = flatten(config)
    if str(config.get("mac")) in registry.ENTRIES["mac"]:
        flat = {**_defaults(), **flat}
    kept = {key: _plain(value) for key, value in flat.items() if key not in INCIDENTAL and key != "t_max"}
    if flat.get("lr_decay") is True or any(flat.get(key) is not None for key in SCHEDULES):
        kept["t_max"] = _plain(flat.get("t_max"))
    if flat.get("transfer_from"):
        kept["load_step"] = _plain(flat.get("load_step"))  # which checkpoint of the source is transferred
    if kept.get("imitate.teacher") not in (None, "", "heuristic"):
        kept["imitate.teacher"] = "a run"  # each seed may have its own teacher
    return kept


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the common keys whose change made the rest of a resumed run another experiment or another seed."""
    pairs = [settings(config) | {"seed": config.get("seed")} for config in (before, after)]
    common = (set(pairs[0]) & set(pairs[1])) - RESUMABLE
    return {key for key in common if text(pairs[0][key]) != text(pairs[1][key])}


def check_same(
    before: Mapping[str, Any], after: Mapping[str, Any], updates: Iterable[str], folder: Path
) -> dict[str, tuple[Any, Any]]:
    """Compare the settings before and after a resume, by flat key.

    Returns:
        The changes: key -> (before, after).

    Raises:
        ConfigError: one of ``updates`` would make the resumed run another experiment.
    """
    changes = {key: (before.get(key), after.get(key)) for key in updates if before.get(key) != after.get(key)}
    for key, (old, new) in changes.items():
        if key not in RESUMABLE:
            raise ConfigError(
                f"{key}={new} cannot be set with --resume, which continues an experiment with {key}={old}: its curve "
                f"would be of two experiments. Leave {key} out, or start a new run with transfer_from={folder}."
            )
    return changes


def text(value: Any) -> str:
    """Write a value as JSON, so that equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def _plain(value: Any) -> Any:
    """Convert a whole float to an int, because 1.0 and 1 are the same setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(read(plugin_config_dir() / "default.yaml"))
