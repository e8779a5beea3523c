"""The settings that the weights of a small network only make sense with: what a checkpoint has to agree on."""

from types import SimpleNamespace
from typing import Any

from lolm_plugin import registry

# How it is learned or begins, not what it computes.
LEARNING = ("dt2gs.noise_mode", "dt2gs.reconstruction_coef", "dt2gs.subtask_kl_coef", "entity.init_gain")


def network_settings(name: str, args: SimpleNamespace) -> dict[str, Any]:
    """The sections of the configuration that shape the network ``name``, flat; empty where it has none."""
    sections = [name, "entity"] if name in registry.TRUNKS else [name] if hasattr(args, name) else []
    settings = {f"{section}.{key}": value for section in sections for key, value in getattr(args, section).items()}
    return {key: value for key, value in settings.items() if key not in LEARNING}
