"""A stand-in for EPyMARL: the same contract, for machines without a checkout.

It has what every run needs and no algorithm of its own; nothing goes into it that EPyMARL lacks.
"""

from functools import partial
from typing import Any

from lolm_plugin import host as hosts
from lolm_plugin.host import KINDS, Host
from lolm_plugin.paths import BUNDLED
from lolm_plugin.registry import Deferred

_HERE = "lolm_plugin.host.bundled"

# kind -> name in a yaml -> constructor. The plugin adds to these, as it adds to EPyMARL's.
REGISTRIES: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
REGISTRIES["runner"].update(
    episode=Deferred(f"{_HERE}.episode_runner:EpisodeRunner"),
    parallel=Deferred(f"{_HERE}.parallel_runner:ParallelRunner"),
)
REGISTRIES["env"].update(gymma=Deferred("lolm_plugin.envs.gymma:make_env"))
REGISTRIES["action_selector"].update(
    soft_policies=Deferred(f"{_HERE}.action_selectors:SoftPoliciesSelector"),
    multinomial=Deferred(f"{_HERE}.action_selectors:MultinomialSelector"),
    epsilon_greedy=Deferred(f"{_HERE}.action_selectors:EpsilonGreedySelector"),
)


def load() -> Host:
    """The bundled host."""
    from lolm_plugin.host.bundled.episode_batch import EpisodeBatch, ReplayBuffer
    from lolm_plugin.host.bundled.logger import open_logger
    from lolm_plugin.run.loop import run

    host = Host(
        name="bundled",
        path=BUNDLED,
        version=_version(),
        config_dir=BUNDLED / "config",
        registries=REGISTRIES,
        EpisodeBatch=EpisodeBatch,
        ReplayBuffer=ReplayBuffer,
        env_maker=partial(find, "env"),
        run=lambda *given: run(host, *given),
        open_logger=open_logger,
    )
    return host


def find(kind: str, name: str) -> Any:
    """The entry ``name`` of the registry ``kind``; ConfigError when there is none."""
    return hosts.find(REGISTRIES, "bundled", kind, name)


def _version() -> str:
    import lolm_plugin

    return getattr(lolm_plugin, "__version__", "unknown")
