"""What a run leaves to read: a table, the Sacred directory, a PNG of the curve, the next command."""

import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin.tracking.curve import Metrics, draw_curve


def read_metrics(run_dir: Path) -> Metrics:
    """A Sacred file run's metrics; empty when none were measured."""
    path = run_dir / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def checkpoint_dir(config: Mapping[str, Any], since: float) -> Path | None:
    """Where the host saved this run's models: the newest folder named after it since ``since`` (Unix time)."""
    models = Path(config["local_results_path"], "models")
    token = f"{config['name']}_seed{config['seed']}_{map_name(config)}_"
    found = [path for path in models.glob(f"{token}*") if path.is_dir() and path.stat().st_mtime >= since - 1]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def map_name(config: Mapping[str, Any]) -> str:
    """The map or key that names the task."""
    return str(config["env_args"].get("map_name") or config["env_args"].get("key"))


def summarise(config: Mapping[str, Any], host: str, run_dir: Path, command: str, since: float) -> str:
    """Draw the curve into the run's directory and return the closing text."""
    metrics = read_metrics(run_dir)
    title = f"{config['name']} on {config['env']} {map_name(config)}, seed {config['seed']}"
    rows = [("run", title), ("host", host), *_results(metrics), ("wall time", _duration(time.time() - since))]
    rows.append(("Sacred run", str(run_dir)))
    if metrics and not config["evaluate"]:
        draw_curve(metrics, title, run_dir / "curve.png")
        rows.append(("curve", str(run_dir / "curve.png")))
    checkpoints = None if config["evaluate"] else checkpoint_dir(config, since)
    if checkpoints:
        rows.append(("checkpoints", str(checkpoints)))
        command = shlex.join(word for word in shlex.split(command) if not word.startswith("transfer_from="))
        evaluate = f"evaluate=True checkpoint_path={shlex.quote(str(checkpoints))}"
        rows.append(("play it again", f"{command} {'' if ' with ' in command else 'with '}{evaluate}"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in rows)


def _results(metrics: Metrics) -> list[tuple[str, str]]:
    rows = []

    def last(name: str, label: str, form: str) -> None:
        if name in metrics:
            values = metrics[name]["values"]
            rows.append((label, form.format(values[-1], max(values), values[0])))

    if metrics:
        rows.append(("steps", str(max(metric["steps"][-1] for metric in metrics.values()))))
    last("test_battle_won_mean", "test win rate", "{:.1%} at the end, {:.1%} at best")
    last("battle_won_mean", "training win rate", "{:.1%} at the end, {:.1%} at best")
    last("test_return_mean", "test return", "{:.2f} at the end, {:.2f} at best")
    if any(metrics.get("kl_coef", {}).get("values", [])):
        last("kl_coef", "kl_coef", "{2:.4f} at first, {0:.4f} at the end")
    last("ratio_epoch0", "ratio_epoch0", "{:.6f} (has to be 1)")
    last("agent_steps_per_second", "agent-steps/s", "{:.0f}")
    return rows


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m {seconds:02}s" if hours else f"{minutes}m {seconds:02}s"
