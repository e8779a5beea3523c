"""EPyMARL as the host: the only file that touches ``sys.path`` or imports EPyMARL's top-level modules.

A checkout is imported unchanged and never written to. EPyMARL always imports the packages of some environments.
Stand-ins replace the missing ones, so that runs that do not need them still work.
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.interface import Host

_log = logging.getLogger(__name__)

# EPyMARL is not a package: its folders are top-level modules.
NAMES = ("utils", "run", "envs", "modules", "components", "learners", "controllers", "runners")
# Packages of environments that EPyMARL imports unconditionally, with the submodules from which it imports.
OPTIONAL: dict[str, tuple[str, ...]] = {"smaclite": (), "gymnasium": ("spaces", "wrappers")}
# The package of each of EPyMARL's environments.
ENV_PACKAGES = {"smaclite": "smaclite", "gymma": "gymnasium", "sc2": "smac", "sc2v2": "smacv2"}

NOT_INSTALLED = "is not installed"
# EPyMARL registers these environments only when a runner needs one, because pysc2 fails if both are registered.
REGISTERED_LATE = {"sc2": "register_smac", "sc2v2": "register_smacv2"}


class CheckoutEnv:
    """Constructor of one of EPyMARL's environments. It can be sent to a fresh process and imports only ``envs``."""

    def __init__(self, env: str, checkout: Path) -> None:
        self.env = env
        self.checkout = checkout

    def __call__(self, **env_args: Any) -> Any:
        with _importable(self.checkout):
            envs = importlib.import_module("envs")
            if self.env in REGISTERED_LATE:
                getattr(envs, REGISTERED_LATE[self.env])()
        return envs.REGISTRY[self.env](**env_args)


class MissingEnv:
    """Picklable registry entry of an environment with an unusable package; ``why`` completes "PACKAGE, which ..."."""

    def __init__(self, env: str, package: str, checkout: Path, why: str = NOT_INSTALLED) -> None:
        self.env = env
        self.package = package
        self.checkout = checkout
        self.why = why

    def __call__(self, **env_args: Any) -> NoReturn:
        how = f"install it as {self.checkout / 'env_requirements.txt'} says"
        if self.why != NOT_INSTALLED:
            how = "`lolm doctor` says what it needs"
        raise ConfigError(
            f"env={self.env} needs the Python package {self.package}, which {self.why}; {how}, or set another env."
        )


class _Absent:
    """Stand-in for a name of an unusable package: it can be subclassed, and a call raises ConfigError."""

    full_name = ""
    why = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            f"{self.full_name} is needed here, but the package {self.full_name.split('.')[0]} "
            f"{self.why}; install it or set an env that does not need it."
        )


class _Placeholder(ModuleType):
    """Stand-in for an unusable module while EPyMARL is imported."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self._why = why
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> type[_Absent]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Absent,), {"full_name": f"{self.__name__}.{name}", "why": self._why})


@cache
def load(path: Path) -> Host:
    """Import the checkout at ``path``; a second call returns the same host.

    Raises:
        ConfigError: a package that EPyMARL needs is missing, or one of its top-level names was imported from elsewhere.
    """
    unusable = _unusable()
    with _importable(path):
        host = _import(path)
    # EPyMARL's batches index with lists, which torch deprecates. A user cannot change that.
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", module=r"components\.episode_buffer")
    _mark_missing_envs(host, unusable)
    return host


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Make the checkout's modules importable; after an error, forget the imported ones. Raises as ``load``."""
    src = path / "src"
    _check_names(path)
    loaded = set(sys.modules)
    placeholders = _placeholders(_unusable())
    sys.path.insert(0, str(src))
    sys.modules.update(placeholders)
    if "utils" not in loaded and not (src / "utils/__init__.py").exists():
        # Without an __init__.py, any other installed package called utils would be imported instead.
        utils = ModuleType("utils")
        utils.__path__ = [str(src / "utils")]
        sys.modules["utils"] = utils
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(PettingZoo|VMAS) is not installed")
            warnings.simplefilter("ignore", SyntaxWarning)
            yield
        _check_names(path)
    except BaseException as error:
        sys.path.remove(str(src))
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] in NAMES:
                del sys.modules[name]
        if not isinstance(error, ModuleNotFoundError):
            raise
        if str(error.name).split(".")[0] in NAMES:
            raise ConfigError(
                f"The EPyMARL checkout at {path} has no module {error.name}; use a newer checkout."
            ) from error
        raise ConfigError(
            f"EPyMARL at {path} needs the Python package {error.name}, which is not installed; "
            f"run `pip install -r {path / 'requirements.txt'}`."
        ) from error
    finally:
        # Other code must not import a stand-in instead of the package.
        for name in placeholders:
            del sys.modules[name]


def _import(path: Path) -> Host:
    run = importlib.import_module("run")
    buffers = importlib.import_module("components.episode_buffer")
    logging_module = importlib.import_module("utils.logging")
    registries = {
        kind: importlib.import_module(module).REGISTRY
        for kind, module in {
            "env": "envs",
            "runner": "runners",
            "mac": "controllers",
            "agent": "modules.agents",
            "critic": "modules.critics",
            "learner": "learners",
            "action_selector": "components.action_selectors",
        }.items()
    }

    def checked_run(_run: Any, config: dict[str, Any], log: Any) -> None:
        # EPyMARL would wait forever for a worker that cannot build its environment.
        env = registries["env"].get(config["env"])
        if isinstance(env, MissingEnv):
            env()
        run.run(_run, config, log)

    def open_logger(log: Any, args: Any, config: dict[str, Any], _run: Any) -> Any:
        logger = _with_pages(logging_module.Logger)(log)
        if args.use_tensorboard:  # into the results folder; EPyMARL's own loop writes into the checkout
            logger.setup_tb(str(Path(args.local_results_path, "tb_logs", args.unique_token)))
        if args.use_wandb:
            logger.setup_wandb(config, args.wandb_team, args.wandb_project, args.wandb_mode)
        if getattr(args, "use_trackio", False):
            from lolm_plugin.tracking.steps import Trackio  # environment processes import this module; numpy is slow

            logger.trackio = Trackio(config, args.unique_token)
        logger.setup_sacred(_run)
        return logger

    return Host(
        name="EPyMARL",
        path=path,
        version=commit(path),
        config_dir=path / "src/config",
        registries=registries,
        EpisodeBatch=buffers.EpisodeBatch,
        env_maker=partial(_env_maker, registries["env"], path),
        run=checked_run,
        open_logger=open_logger,
    )


def _with_pages(base: type) -> type:
    """Return a subclass of EPyMARL's logger that passes pages to W&B, and everything to Trackio."""

    class Logger(base):
        """EPyMARL's logger, and Trackio beside it. Its TensorBoard package has no texts, so it gets no page."""

        trackio: Any = None

        def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
            super().log_stat(key, value, t, to_sacred)
            if self.trackio:
                self.trackio.log(key, float(value), t)

        def log_page(self, key: str, page: Path) -> None:
            if self.use_wandb:  # sent with the last step's values
                html = importlib.import_module("wandb").Html(page.read_text(encoding="utf-8"), inject=False)
                self.wandb_current_data[key] = html
            if self.trackio:
                self.trackio.log_page(key, page)

        def finish(self) -> None:
            super().finish()
            if self.trackio:
                self.trackio.finish()

    return Logger


def _env_maker(registry: dict[str, Any], checkout: Path, env: str) -> Callable[..., Any]:
    """Return an environment's constructor; see ``Host.env_maker``. Entries of other programs stay unchanged."""
    entry = registry.get(env)
    if entry is None and env not in REGISTERED_LATE:
        raise ConfigError(f"env={env} is not known to EPyMARL, which has {', '.join(sorted(registry))}; change env.")
    if entry is None or getattr(entry, "__module__", "").split(".")[0] == "envs":
        return CheckoutEnv(env, checkout)
    return entry


def _check_names(path: Path) -> None:
    for name in NAMES:
        module = sys.modules.get(name)
        if module is None:
            continue
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "a built-in")
        if path / "src" not in Path(file).resolve().parents:
            raise ConfigError(
                f"The module {name} was already imported from {file}, but EPyMARL at {path} has its own module of that "
                f"name; rename that file or start Python where it is not found."
            )


def _installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


def _unusable() -> dict[str, str]:
    """Return the unusable packages of environments; each value completes the sentence "PACKAGE, which ..."."""
    missing = {package: NOT_INSTALLED for package in ENV_PACKAGES.values() if not _installed(package)}
    # EPyMARL imports these for every environment, so a broken one would end every run.
    tried = {package: _import_failure(package) for package in OPTIONAL if package not in missing}
    return missing | {package: why for package, why in tried.items() if why}


@cache
def _import_failure(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as error:  # a package may raise anything, such as OSError for a missing system library
        return f"cannot be imported ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return ""


def _placeholders(unusable: dict[str, str]) -> dict[str, _Placeholder]:
    modules = {}
    for package in unusable.keys() & OPTIONAL.keys():
        modules[package] = _Placeholder(package, unusable[package])
        for child in OPTIONAL[package]:
            modules[f"{package}.{child}"] = _Placeholder(f"{package}.{child}", unusable[package])
            setattr(modules[package], child, modules[f"{package}.{child}"])
    return modules


def _mark_missing_envs(host: Host, unusable: dict[str, str]) -> None:
    envs = {env: package for env, package in ENV_PACKAGES.items() if package in unusable}
    for env, package in envs.items():
        host.registries["env"][env] = MissingEnv(env, package, host.path, unusable[package])
        if package in OPTIONAL and unusable[package] != NOT_INSTALLED:
            _log.warning("%s %s; EPyMARL runs without env=%s.", package, unusable[package], env)
    # A missing smac or smacv2 is usual and is not logged.
    needless = [env for env, package in envs.items() if package in OPTIONAL and unusable[package] == NOT_INSTALLED]
    if needless:
        packages = ", ".join(envs[env] for env in needless)
        _log.warning("Not installed: %s; EPyMARL runs without env=%s.", packages, ", ".join(needless))


def commit(path: Path) -> str:
    """Return the full git commit of the checkout, or "unknown".

    Reads ``.git`` directly. The git command would answer for an outer repository if the checkout has no ``.git``.
    """
    git = path / ".git"
    try:
        if git.is_file():
            git = path / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        reference = head.removeprefix("ref:").strip()
        if (git / "commondir").is_file():  # a linked worktree
            git = git / (git / "commondir").read_text().strip()
        if (git / reference).is_file():
            return (git / reference).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(f" {reference}"):
                return line.split()[0]
    except OSError:
        pass
    return "unknown"
