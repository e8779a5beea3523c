"""One line during a run: steps, win rates, return, speed, time left."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from sacred.observers import RunObserver
from tqdm import tqdm

LOG_EVERY_SECONDS = 30  # where there is no terminal to redraw a line on


class ProgressObserver(RunObserver):
    """Fed by Sacred's heartbeat, so it works in both hosts and for every algorithm."""

    def __init__(self, t_max: int, test_actions: str = "") -> None:
        """``test_actions`` says how a test acts, "greedy" or "sampled"; "": unknown."""
        self.test_label = f"{test_actions} test win".strip()
        self.bar = tqdm(
            total=t_max,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.__stderr__,
            disable=not sys.__stderr__.isatty(),
            leave=False,
        )
        self.t_max = t_max
        self.started = time.monotonic()
        self.latest: dict[str, float] = {}
        self._logged = self.started
        self._first: int | None = None  # step of the first metrics; not near 0 where a run was resumed

    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, list]], info: Mapping[str, Any]) -> None:
        """Called by Sacred with what was measured since the last heartbeat."""
        steps = [metric["steps"][-1] for metric in metrics_by_name.values()]
        if not steps:
            return
        self.latest |= {name: metric["values"][-1] for name, metric in metrics_by_name.items()}
        step = max(steps)
        if self._first is None:
            self._first = self.bar.initial = min(metric["steps"][0] for metric in metrics_by_name.values())
        self.bar.set_postfix_str(self.describe(), refresh=False)
        self.bar.n = min(step, self.t_max)
        self.bar.refresh()
        if self.bar.disable and time.monotonic() - self._logged > LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            logging.getLogger("lolm").info(f"{step}/{self.t_max} steps | {self.describe()} | {self._left(step)} left")

    def describe(self) -> str:
        """Format the latest numbers, each labelled; the training win rate until a test has been played."""
        tested = "test_battle_won_mean" in self.latest
        shown = [
            (self.test_label, ("test_battle_won_mean",), "{:.0%}"),
            ("sampled test win", ("test_sampled_battle_won_mean",), "{:.0%}"),
            ("training win", () if tested else ("battle_won_mean",), "{:.0%}"),
            ("return", ("return_mean", "test_return_mean", "total_return_mean"), "{:.2f}"),
            ("agent-steps/s", ("agent_steps_per_second",), "{:.0f}"),
        ]
        parts = []
        for label, names, form in shown:
            values = [self.latest[name] for name in names if name in self.latest]
            if values:
                parts.append(f"{label} {form.format(values[0])}")
        return " | ".join(parts)

    def _left(self, step: int) -> str:
        done = step - (self._first or 0)
        if done <= 0:
            return "?"
        return tqdm.format_interval((time.monotonic() - self.started) * max(0, self.t_max - step) / done)

    def completed_event(self, stop_time: Any, result: Any) -> None:
        """Called by Sacred at the end of a run."""
        self.bar.close()

    def interrupted_event(self, interrupt_time: Any, status: str) -> None:
        """Called by Sacred when a run is stopped."""
        self.bar.close()

    def failed_event(self, fail_time: Any, fail_trace: list[str]) -> None:
        """Called by Sacred when a run breaks."""
        self.bar.close()
