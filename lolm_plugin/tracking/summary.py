"""What a run leaves to read: a table, the Sacred directory, a PNG of the curve, the next command."""

import glob
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import warn_on_failure
from lolm_plugin.paths import path_component
from lolm_plugin.tracking.curve import Metrics, draw_curve


def read_metrics(run_dir: Path) -> Metrics:
    """A Sacred file run's metrics; empty when none were measured."""
    path = run_dir / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def checkpoint_dir(config: Mapping[str, Any], since: float) -> Path | None:
    """Where the host saved this run's models: the newest folder named after it since ``since`` (Unix time)."""
    models = Path(config["local_results_path"], "models")
    token = f"{config['name']}_seed{config['seed']}_{path_component(map_name(config))}_"
    found = [
        path for path in models.glob(f"{glob.escape(token)}*") if path.is_dir() and path.stat().st_mtime >= since - 1
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def map_name(config: Mapping[str, Any]) -> str:
    """The map or key that names the task."""
    return str(config["env_args"].get("map_name") or config["env_args"].get("key"))


def summarise(config: Mapping[str, Any], host: str, run_dir: Path, command: str, since: float) -> str:
    """Draw the curve into the run's directory and return the closing text."""
    metrics = read_metrics(run_dir)
    title = f"{config['name']} on {config['env']} {map_name(config)}, seed {config['seed']}"
    rows = [("run", title), ("host", host), *_results(metrics, config), ("wall time", _duration(time.time() - since))]
    rows.append(("Sacred run", str(run_dir)))
    if metrics and not config["evaluate"]:
        with warn_on_failure("The curve could not be drawn"):
            draw_curve(metrics, title, run_dir / "curve.png")
            rows.append(("curve", str(run_dir / "curve.png")))
    checkpoints = None if config["evaluate"] else checkpoint_dir(config, since)
    if checkpoints:
        rows.append(("checkpoints", str(checkpoints)))
        rows.append(("play it again", _play_again(command, str(checkpoints), config)))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in rows)


def actions_of_tests(config: Mapping[str, Any]) -> str:
    """How the tests named ``test_*`` act: "greedy" or "sampled"; "" for controllers of EPyMARL, which decide it."""
    if config["mac"] not in registry.ENTRIES["mac"]:
        return ""
    return "greedy" if config["test_greedy"] else "sampled"


def _play_again(command: str, checkpoints: str, config: Mapping[str, Any]) -> str:
    """Turn the command of a training into one that evaluates its checkpoints."""
    words = shlex.split(command)
    further = ["evaluate=True"]
    if not any(word == "--resume" or word.startswith("--resume=") for word in words):  # which names them itself
        words = [word for word in words if not word.startswith("transfer_from=")]
        further.append(f"checkpoint_path={checkpoints}")
        if config.get("kl", {}).get("reference") == "source":  # which only a training with a source can have
            words = [word for word in words if not word.startswith("kl.reference=")]
            further.append("kl.reference=pretrained")
    return shlex.join([*words, *([] if "with" in words else ["with"]), *further])


def summarise_imitation(
    config: Mapping[str, Any], info: Mapping[str, Any], host: str, run_dir: Path, command: str, since: float
) -> str:
    """The closing text of ``lolm imitate``, with the command that continues by PPO."""
    done, tests = info["imitation"], f"of {info['imitation']['test_battles']} greedy battles"

    def rate(values: Mapping[str, float], prefix: str = "") -> str:
        shown = []
        if (won := values.get(f"{prefix}test_battle_won_mean")) is not None:
            shown.append(f"{won:.1%} {tests} won")
        if (total := values.get(f"{prefix}test_return_mean")) is not None:
            shown.append(f"return {total:.2f}")
        return ", ".join(shown)

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
        ("wall time", _duration(time.time() - since)),
        ("Sacred run", str(run_dir)),
    ]
    if done["checkpoints"]:
        rows += [
            ("checkpoint", done["checkpoints"]),
            ("next, PPO", _continue_by_ppo(command, done["checkpoints"])),
        ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in rows)


def _continue_by_ppo(command: str, checkpoints: str) -> str:
    """The command of an imitation -> that of a training from its checkpoint."""
    words, kept = shlex.split(command), []
    words = words[words.index("imitate") + 1 :]
    program = shlex.split(command)[: -len(words)]
    skip = False
    for word in words:
        if not skip and word != "--teacher" and not word.startswith(("--teacher=", "imitate.", "transfer_from=")):
            kept.append(word)
        skip = word == "--teacher"
    if "with" not in kept:
        kept.append("with")
    return shlex.join([*program[:-1], "train", *kept, f"transfer_from={checkpoints}"])


def _results(metrics: Metrics, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []

    def last(name: str, label: str, form: str) -> None:
        if name in metrics:
            values = _numbers(metrics[name]["values"])
            rows.append((label, form.format(values[-1], max(values), values[0])))

    def curve(name: str, label: str, form: str) -> None:
        if name not in metrics:
            return
        values, steps = _numbers(metrics[name]["values"]), metrics[name]["steps"]
        if config["evaluate"]:
            rows.append((label, form.format(values[-1])))
            return
        best = max(range(len(values)), key=lambda point: (not math.isnan(values[point]), values[point]))  # NaN never
        points = [("at the end", -1), ("at best", best), *([("before learning", 0)] if steps[0] == 0 else [])]
        rows.append((label, ", ".join(f"{form.format(values[i])} {word} (step {steps[i]:,})" for word, i in points)))

    if metrics:
        rows.append(("steps", str(max(metric["steps"][-1] for metric in metrics.values()))))
    greedy = f"{actions_of_tests(config)} test ".lstrip()
    curve("test_battle_won_mean", f"{greedy}win rate", "{:.1%}")
    curve("test_sampled_battle_won_mean", "sampled test win rate", "{:.1%}")
    curve("battle_won_mean", "training win rate", "{:.1%}")
    curve("test_return_mean", f"{greedy}return", "{:.2f}")
    curve("test_sampled_return_mean", "sampled test return", "{:.2f}")
    if any(metrics.get("kl_coef", {}).get("values", [])):
        last("kl_coef", "kl_coef", "{2:.4f} at first, {0:.4f} at the end")
    last("ratio_epoch0", "ratio_epoch0", "{:.6f} (has to be 1)")
    last("agent_steps_per_second", "agent-steps/s", "{:.0f}")
    return rows


def _numbers(values: Sequence[float | None]) -> list[float]:
    """Return the values of a series with NaN for each null, which stands for it in a record."""
    return [math.nan if value is None else value for value in values]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m {seconds:02}s" if hours else f"{minutes}m {seconds:02}s"
