"""A policy goes on in another battle: weights move, what belongs to the old training does not (paper, section 5.5)."""

from pathlib import Path
from typing import Any, NamedTuple

from lolm_plugin.learners import learner_checkpoint
from lolm_plugin.tensor_files import tensor_sizes


class Part(NamedTuple):
    """One line of the table that says what became of a checkpoint."""

    name: str
    fate: str  # moved, or new and why
    tensors: int = 0
    numbers: int = 0


def transfer(learner: Any, path: str, setting: str, critic: bool) -> tuple[str, str, list[Part]]:
    """Take over the policy, and the ``critic``, of the checkpoint in ``path``; optimisers stay fresh, no step counts.

    ``setting`` is what the user wrote. Returns the environment and the map it was trained on, and what moved.
    Raises ConfigError where anything does not fit; nothing is loaded in part.
    """
    facts = learner_checkpoint.check_fits(path, setting, learner.args, learner.mac, with_critic=critic)
    learner.mac.load_models(path)
    learner.mac.transferred()
    if critic:
        learner.load_critic(path)
    found = sorted(Path(path).rglob("*.safetensors"))
    files = {file.relative_to(path).with_suffix("").as_posix(): file for file in found}
    others = {*learner_checkpoint.MODULES, *learner_checkpoint.OPTIMISERS, "random", "source_adapter"}
    parts = [_moved(name, file) for name, file in files.items() if name not in others]
    for name in learner_checkpoint.MODULES:
        parts.append(_moved(name, files[name]) if critic else Part(name, "new: transfer_critic=False"))
    parts += [Part(name, "new: this training's own") for name in learner_checkpoint.OPTIMISERS]
    env, _, map_name = facts["map"].partition(" ")
    return env, map_name, parts


def table(parts: list[Part]) -> str:
    """The parts, one a line, in columns."""
    names, fates = (max(len(part[column]) for part in parts) for column in (0, 1))
    sizes = [f"{part.tensors} tensors, {part.numbers:,} numbers" if part.tensors else "" for part in parts]
    lines = [f"  {part.name:<{names}}  {part.fate:<{fates}}  {size}" for part, size in zip(parts, sizes, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _moved(name: str, file: Path) -> Part:
    sizes = tensor_sizes(file)
    return Part(name, "moved", len(sizes), sum(sizes))
