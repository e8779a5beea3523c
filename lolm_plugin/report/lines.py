"""Lines of a report: the runs of an algorithm with the same settings, named by the settings that differ."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lolm_plugin.configuration import experiment
from lolm_plugin.report.records import RunRecord
from lolm_plugin.tracking.record_files import shown

SHOWN = 4  # settings in a line's name; of more, the first ones and a checksum of all
VALUE = 40  # characters of a value in a name
NOT_RECORDED = "not recorded"
SOURCE = "source."  # before the settings of the run that a transfer comes from

Key = tuple[str, str]  # an algorithm's name and a kind of run


class Lines:
    """Tells runs of one algorithm and kind apart by every setting that differs between two of them at one place.

    A setting that differs only from map to map, such as the length of a schedule, makes no second line. So a line has
    one name on all maps.
    """

    def __init__(self, runs: Sequence[tuple[tuple[object, ...], RunRecord]]) -> None:
        """Take ``runs`` as (place, run), where runs at equal places are compared with each other."""
        self._settings = {run.folder: _settings(run) for _, run in runs}
        places: dict[tuple[object, ...], list[RunRecord]] = {}
        for place, run in runs:
            places.setdefault(place, []).append(run)
        self.differing: dict[Key, list[str]] = {}
        for group in places.values():
            known = self.differing.setdefault((group[0].algorithm, group[0].kind), [])
            known += [key for key in self._differing(group) if key not in known]
        for known in self.differing.values():
            known.sort()
        self._taken: dict[str, str] = {}

    def name(self, run: RunRecord, kind: str = "") -> str:
        """Return the name of a run's line or, with ``kind``, of the line for a run of that kind with its settings."""
        values = self.values(run, kind)
        words = [f"{key}={_short(value)}" for key, value in values.items()]
        if len(words) > SHOWN:
            further = len(words) - SHOWN + 1
            words = [*words[: SHOWN - 1], f"{further} further settings {_checksum(experiment.text(values))}"]
        name, meant = ", ".join([run.algorithm, *words]), experiment.text(values)
        # The text "1" and the number 1 are written alike.
        return name if self._taken.setdefault(name, meant) == meant else f"{name} {_checksum(meant)}"

    def values(self, run: RunRecord, kind: str = "") -> dict[str, Any]:
        """Return the settings of ``run`` that differ between lines."""
        settings = self._settings.get(run.folder) or _settings(run)
        return {
            key: settings.get(key, NOT_RECORDED) for key in self.differing.get((run.algorithm, kind or run.kind), [])
        }

    def _differing(self, group: Sequence[RunRecord]) -> list[str]:
        found = [self._settings[run.folder] for run in group]
        if not all(run.source_settings for run in group):  # records of before these were noted
            found = [{key: value for key, value in one.items() if not key.startswith(SOURCE)} for one in found]
        keys = {key for one in found for key in one}
        return [key for key in keys if len({experiment.text(one.get(key, NOT_RECORDED)) for one in found}) > 1]


def _settings(run: RunRecord) -> dict[str, Any]:
    source: Mapping[str, Any] = run.source_settings or {}
    return {**experiment.settings(run.first_config), **{f"{SOURCE}{key}": value for key, value in source.items()}}


def _short(value: Any) -> str:
    """Write a value as after ``with``; a long one is cut and gets a checksum."""
    written = value if isinstance(value, str) else "null" if value is None else f"{value}"
    return shown(written) if len(written) <= VALUE else f"{shown(written[: VALUE - 8])}… {_checksum(written)}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
