"""Console output of a run: a progress line while it trains, and a closing summary with a plot of its curve."""

import glob
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import humanize
from sacred.observers import RunObserver
from tqdm import tqdm

from lolm_plugin import maps, registry
from lolm_plugin.errors import warn_on_failure
from lolm_plugin.paths import path_component
from lolm_plugin.tracking.record_files import Metric, load_metrics

LOG_EVERY_SECONDS = 30  # if there is no terminal for a progress bar
# Okabe and Ito's colours, which colour-blind people can distinguish.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"
# Panels of the plot: title, and (metric, legend, colour) of each line.
PANELS = (
    *(
        (
            title,
            (
                (f"test_{name}", "test", BLUE),
                (f"test_sampled_{name}", "test, sampled", GREEN),
                (name, "training", ORANGE),
            ),
        )
        for title, name in (("win rate", "battle_won_mean"), ("return", "return_mean"))
    ),
    ("policy entropy (nats)", (("entropy", "entropy", GREEN),)),
    ("weight of the KL", (("kl_coef", "kl_coef", GREY),)),
)

Metrics = Mapping[str, Metric]


class ProgressObserver(RunObserver):
    """Progress line with steps, win rates, return, speed and time left.

    It gets its values from Sacred's heartbeat, so it works with both hosts.
    """

    def __init__(self, t_max: int, test_actions: str = "") -> None:
        """Create the bar. ``test_actions`` is how tests choose actions: "greedy", "sampled" or "" (unknown)."""
        terminal = sys.__stderr__
        is_shown = terminal is not None and terminal.isatty()
        look = {"unit": "step", "unit_scale": True, "dynamic_ncols": True, "leave": False}
        self.bar = tqdm(total=t_max, file=terminal, disable=not is_shown, **look)
        self.t_max = t_max
        self.latest: dict[str, float] = {}
        self._test_label = f"{test_actions} test win".strip()
        self._started = self._logged = time.monotonic()
        self._first: int | None = None  # step of the first metrics; not near 0 if a run was resumed

    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, list]], info: Mapping[str, Any]) -> None:
        """Show the values logged since the last heartbeat. Sacred calls this."""
        if not metrics_by_name:
            return
        self.latest |= {name: metric["values"][-1] for name, metric in metrics_by_name.items()}
        step = max(metric["steps"][-1] for metric in metrics_by_name.values())
        if self._first is None:
            self._first = self.bar.initial = min(metric["steps"][0] for metric in metrics_by_name.values())
        self.bar.set_postfix_str(self.describe(), refresh=False)
        self.bar.n = min(step, self.t_max)
        self.bar.refresh()
        if self.bar.disable and time.monotonic() - self._logged > LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            logging.getLogger("lolm").info(f"{step}/{self.t_max} steps | {self.describe()} | {self._left(step)} left")

    def describe(self) -> str:
        """Format the latest values with labels; the training win rate is shown until there is a test."""
        is_tested = "test_battle_won_mean" in self.latest
        shown = [
            (self._test_label, ("test_battle_won_mean",), "{:.0%}"),
            ("sampled test win", ("test_sampled_battle_won_mean",), "{:.0%}"),
            ("training win", () if is_tested else ("battle_won_mean",), "{:.0%}"),
            ("return", ("return_mean", "test_return_mean", "total_return_mean"), "{:.2f}"),
            ("agent-steps/s", ("agent_steps_per_second",), "{:.0f}"),
        ]
        known = [(label, [self.latest[n] for n in names if n in self.latest], form) for label, names, form in shown]
        return " | ".join(f"{label} {form.format(values[0])}" for label, values, form in known if values)

    def _left(self, step: int) -> str:
        done = step - (self._first or 0)
        if done <= 0:
            return "?"
        return tqdm.format_interval((time.monotonic() - self._started) * max(0, self.t_max - step) / done)

    def completed_event(self, *args: Any, **event: Any) -> None:
        """Close the progress bar. Sacred calls this at the end of a run."""
        self.bar.close()

    interrupted_event = failed_event = completed_event


def actions_of_tests(config: Mapping[str, Any]) -> str:
    """Return how the tests ``test_*`` choose actions: "greedy" or "sampled"; "" for controllers of EPyMARL."""
    if config["mac"] not in registry.ENTRIES["mac"]:
        return ""
    return "greedy" if config["test_greedy"] else "sampled"


def map_name(config: Mapping[str, Any]) -> str:
    """Return the map or key that names the task."""
    return maps.label(config["env_args"].get("map_name") or config["env_args"].get("key"))


def summarise(config: Mapping[str, Any], host: str, run_dir: Path, command: str, since: float) -> str:
    """Draw the curve into ``run_dir`` and return the closing summary. ``since`` is the start in Unix time."""
    metrics = load_metrics(run_dir)
    title = f"{config['name']} on {config['env']} {map_name(config)}, seed {config['seed']}"
    rows = [("run", title), ("host", host), *_results(metrics, config), *_end(run_dir, since)]
    if (battles := run_dir / "battle.html").is_file():
        rows.append(("battles", f"{battles} (the first of the best test)"))
    if config["evaluate"]:
        return _columns(rows)
    if metrics:
        with warn_on_failure("The curve could not be drawn"):
            draw_curve(metrics, title, run_dir / "curve.png")
            rows.append(("curve", str(run_dir / "curve.png")))
    if checkpoints := _checkpoint_dir(config, since):
        rows.append(("checkpoints", str(checkpoints)))
        rows.append(("play it again", _play_again(command, str(checkpoints), config)))
    return _columns(rows)


def summarise_imitation(
    config: Mapping[str, Any], info: Mapping[str, Any], host: str, run_dir: Path, command: str, since: float
) -> str:
    """Return the closing summary of ``lolm imitate``, with the command that continues with PPO."""
    done = info["imitation"]

    def rate(values: Mapping[str, float], prefix: str = "") -> str:
        won, total = (values.get(f"{prefix}test_{name}_mean") for name in ("battle_won", "return"))
        wins = [] if won is None else [f"{won:.1%} of {done['test_battles']} greedy battles won"]
        return ", ".join([*wins, *([] if total is None else [f"return {total:.2f}"])])

    won = done.get("teacher_battle_won_mean")
    sampled = "" if won is None else f", {won:.1%} of the teacher's won with sampled actions"
    explained = [done["imitate_explained_variance"]] if "imitate_explained_variance" in done else []
    rows = [
        ("run", f"{config['name']} on {config['env']} {map_name(config)}, seed {config['seed']}"),
        ("host", host),
        ("teacher", f"{done['teacher']}: {rate(done, 'teacher_')}"),
        ("student before", rate(done["before"])),
        ("student after", rate(done["after"])),
        ("agreement", f"{done['imitate_agreement']:.1%} of decisions in {done['held_out_battles']} held-out battles"),
        *[("critic", f"explains {share:.0%} of the variance of their returns") for share in explained],
        ("learned from", f"{done['battles']} battles{sampled}"),
        ("seconds", ", ".join(f"{part} {seconds:.0f}" for part, seconds in done["seconds"].items())),
        *_end(run_dir, since),
    ]
    if done["checkpoints"]:
        rows += [
            ("checkpoint", done["checkpoints"]),
            ("next, PPO", _continue_by_ppo(command, done["checkpoints"])),
        ]
    return _columns(rows)


def draw_curve(metrics: Metrics, title: str, path: Path) -> None:
    """Draw win rate, return, entropy and KL weight over environment steps; panels without metrics are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [(label, [line for line in lines if line[0] in metrics]) for label, lines in PANELS]
    panels = [(label, lines) for label, lines in measured if lines]
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False, layout="constrained")
    for axis, (label, lines) in zip(axes[0], panels, strict=True):
        for name, legend, colour in lines:
            axis.plot(metrics[name].steps, _numbers(metrics[name]), "o-", ms=3, color=colour, label=legend)
        axis.set(xlabel="environment steps", title=label)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(frameon=False)
    axes[0][0].set_ylim((-0.03, 1.03) if panels[0][0] == "win rate" else None)
    figure.suptitle(title, parse_math=False)  # a name may have any character
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _results(metrics: Metrics, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not metrics:
        return []
    rows = [("steps", str(max(metric.steps[-1] for metric in metrics.values())))]
    test = f"{actions_of_tests(config)} test".strip()
    for name, label, form in (
        ("test_battle_won_mean", f"{test} win rate", "{:.1%}"),
        ("test_sampled_battle_won_mean", "sampled test win rate", "{:.1%}"),
        ("battle_won_mean", "training win rate", "{:.1%}"),
        ("test_return_mean", f"{test} return", "{:.2f}"),
        ("test_sampled_return_mean", "sampled test return", "{:.2f}"),
    ):
        if name not in metrics:
            continue
        steps, values = metrics[name].steps, _numbers(metrics[name])
        best = max(range(len(values)), key=lambda point: (not math.isnan(values[point]), values[point]))  # never NaN
        points = [("at the end", -1), ("at best", best), *([("before learning", 0)] if steps[0] == 0 else [])]
        curve = ", ".join(f"{form.format(values[point])} {word} (step {steps[point]:,})" for word, point in points)
        rows.append((label, form.format(values[-1]) if config["evaluate"] else curve))
    if "kl_coef" in metrics and any(metrics["kl_coef"].values):
        values = _numbers(metrics["kl_coef"])
        rows.append(("kl_coef", f"{values[0]:.4f} at first, {values[-1]:.4f} at the end"))
    if "ratio_epoch0" in metrics:
        rows.append(("ratio_epoch0", f"{_numbers(metrics['ratio_epoch0'])[-1]:.6f} (must be 1)"))
    if "agent_steps_per_second" in metrics:
        rows.append(("agent-steps/s", f"{_numbers(metrics['agent_steps_per_second'])[-1]:.0f}"))
    return rows


def _end(run_dir: Path, since: float) -> list[tuple[str, str]]:
    duration = humanize.precisedelta(round(time.time() - since), format="%.0f")
    return [("wall time", duration), ("Sacred run", str(run_dir))]


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in rows)


def _numbers(metric: Metric) -> list[float]:
    """Return the values of a series, with NaN for None (a record stores NaN as null)."""
    return [math.nan if value is None else value for value in metric.values]


def _checkpoint_dir(config: Mapping[str, Any], since: float) -> Path | None:
    """Return the folder of this run's checkpoints: the newest one with its name that changed after ``since``."""
    models = Path(config["local_results_path"], "models")
    name = f"{config['name']}_seed{config['seed']}_{path_component(map_name(config))}_"
    changed = {path: path.stat().st_mtime for path in models.glob(f"{glob.escape(name)}*") if path.is_dir()}
    return max((path for path in changed if changed[path] >= since - 1), key=changed.__getitem__, default=None)


def _play_again(command: str, checkpoints: str, config: Mapping[str, Any]) -> str:
    """Turn the command of a training into one that evaluates its checkpoints."""
    words = shlex.split(command)
    further = ["evaluate=True"]
    if not any(word == "--resume" or word.startswith("--resume=") for word in words):  # --resume names the checkpoints
        words = [word for word in words if not word.startswith("transfer_from=")]
        further.append(f"checkpoint_path={checkpoints}")
        if config.get("kl", {}).get("reference") == "source":  # only valid with transfer_from
            words = [word for word in words if not word.startswith("kl.reference=")]
            further.append("kl.reference=pretrained")
    return shlex.join([*words, *([] if "with" in words else ["with"]), *further])


def _continue_by_ppo(command: str, checkpoints: str) -> str:
    """Turn the command of an imitation into that of a training from its checkpoint."""
    words = shlex.split(command)
    start = words.index("imitate")
    kept: list[str] = []
    for before, word in zip(words[start:], words[start + 1 :], strict=False):
        is_value = before == "--teacher"
        if not (is_value or word == "--teacher" or word.startswith(("--teacher=", "imitate.", "transfer_from="))):
            kept.append(word)
    with_ = [] if "with" in kept else ["with"]
    return shlex.join([*words[:start], "train", *kept, *with_, f"transfer_from={checkpoints}"])
