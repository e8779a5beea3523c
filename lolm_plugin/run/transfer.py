"""Start a training with the weights of another run's checkpoint (paper, section 5.5)."""

from pathlib import Path
from typing import Any, NamedTuple

from lolm_plugin.checkpoints import Checkpoint
from lolm_plugin.configuration import experiment
from lolm_plugin.learners import learner_checkpoint
from lolm_plugin.run.components import RunComponents
from lolm_plugin.tensor_files import tensor_sizes


class Part(NamedTuple):
    """A component of a checkpoint: whether it was transferred, and its size."""

    name: str
    fate: str  # "moved", or "new" and why
    tensors: int = 0
    numbers: int = 0


def transfer(components: RunComponents, source: Checkpoint) -> dict[str, Any]:
    """Load the policy of another run's checkpoint, and its critic if ``transfer_critic``.

    Optimisers and counters start anew. Logs a table of the components, and returns the facts about the transfer for
    the run's record.

    Raises:
        ConfigError: a component does not fit; then nothing is loaded.
    """
    learner, args, path = components.learner, components.args, str(source.path)
    setting = f"transfer_from={args.transfer_from}"
    facts = learner_checkpoint.check_fits(path, setting, learner.args, learner.mac, with_critic=args.transfer_critic)
    learner.mac.load_models(path)
    learner.mac.transferred()
    if args.transfer_critic:
        learner.load_critic(path)
    moved = _components(source.path, args.transfer_critic)
    env, _, map_name = facts["map"].partition(" ")
    kl = "" if args.kl["enabled"] else " No KL."
    message = f"Transfer from step {source.step} on {env} {map_name}:{kl}\n{_table(moved)}"
    components.logger.console_logger.info(message)
    return {
        "source_env": env,
        "source_map": map_name,
        "source_step": source.step,
        "source_settings": experiment.settings(experiment.rename_keys(source.facts.get("config", {}))),
        "checkpoint": path,
        "parts": [part._asdict() for part in moved],
    }


def _components(checkpoint: Path, critic: bool) -> list[Part]:
    files = {
        file.relative_to(checkpoint).with_suffix("").as_posix(): file
        for file in sorted(checkpoint.rglob("*.safetensors"))
    }
    modules, optimisers = learner_checkpoint.MODULES, learner_checkpoint.OPTIMISERS
    others = {*modules, *optimisers, "random", "source_adapter"}
    parts = [_moved(name, file) for name, file in files.items() if name not in others]
    parts += [_moved(name, files[name]) if critic else Part(name, "new: transfer_critic=False") for name in modules]
    return parts + [Part(name, "new: this training's own") for name in optimisers]


def _moved(name: str, file: Path) -> Part:
    sizes = tensor_sizes(file)
    return Part(name, "moved", len(sizes), sum(sizes))


def _table(parts: list[Part]) -> str:
    """Format the components as a table, one component per line."""
    names, fates = max(len(part.name) for part in parts), max(len(part.fate) for part in parts)
    sizes = [f"{part.tensors} tensors, {part.numbers:,} numbers" if part.tensors else "" for part in parts]
    lines = [f"  {part.name:<{names}}  {part.fate:<{fates}}  {size}" for part, size in zip(parts, sizes, strict=True)]
    return "\n".join(line.rstrip() for line in lines)
