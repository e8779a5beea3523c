"""Do the real numbers keep to their description? Sizes coincide between tasks and versions; ranges and bits do not."""

import torch
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.description import Choice, Description, Entities, Field, Flag, Number, Place

TOLERANCE = 1e-3  # float32


def check_described(
    description: Description, obs: Tensor, state: Tensor | None = None, present: Tensor | None = None
) -> None:
    """ConfigError naming the first number of observations [rows, agents, size] that is not as declared.

    ``state`` [rows, agents * size] has to be these observations, one after the other. Agents that are not ``present``
    (bool [rows, agents]; default: all are) have left the task and see zeros, which are not checked.
    """
    if state is not None and not torch.equal(state, obs.flatten(1)):
        raise _mismatch(description, "the state is all observations, one after the other, and it is another")
    seen = obs.flatten(0, -2)
    if present is not None:
        seen = seen[present.flatten()]
    for block in (description.me, *description.entities):
        present = block.present(seen)
        for field in block.fields:
            wrong = present & ~_right(block, field, seen)
            if wrong.any():
                row, which = (int(place[0]) for place in wrong.nonzero(as_tuple=True))
                name = block.labels[which] if block.labels else block.name if block is description.me else which
                raise _mismatch(description, f"{block.name} {name}: {_declared(block, field, seen[row], which)}")


def _right(block: Entities, field: Field, obs: Tensor) -> Tensor:
    """Where a field is as declared: bool [rows, entities]."""
    if isinstance(field, Number):
        return _within(block.read(obs, field.at), field.low, field.high)
    if isinstance(field, Flag):
        return _bits(block.read(obs, field.at))
    if isinstance(field, Choice):
        bits = torch.stack([block.read(obs, field.at + i) for i in range(len(field.options))], -1)
        told = torch.ones_like(bits[..., 0]) if field.when is None else block.read(obs, field.when)
        return (_bits(bits).all(-1) & (bits.sum(-1) == 1)) | (told == 0)
    if not isinstance(field, Place) or field.points:
        return torch.ones(len(obs), len(block.starts), dtype=torch.bool, device=obs.device)
    return _within(block.read(obs, field.x), field.low, field.high) & _within(
        block.read(obs, field.y), field.low, field.high
    )


def _within(values: Tensor, low: float, high: float) -> Tensor:
    return (values >= low - TOLERANCE) & (values <= high + TOLERANCE)


def _bits(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def _declared(block: Entities, field: Field, row: Tensor, which: int) -> str:
    """What a field should be and what is there: row [size]."""

    def found(at: int) -> str:
        return f"{float(block.read(row, at)[which]):g}"

    if isinstance(field, Number):
        return f"{field.name} lies between {field.low:g} and {field.high:g} and is {found(field.at)}"
    if isinstance(field, Flag):
        return f"{field.yes!r} is 0 or 1 and is {found(field.at)}"
    if isinstance(field, Choice):
        bits = " ".join(found(field.at + i) for i in range(len(field.options)))
        return f"exactly one of {', '.join(field.options)} is 1 and they are {bits}"
    assert isinstance(field, Place), "nothing else can be wrong"
    return f"its place lies between {field.low:g} and {field.high:g} and is {found(field.x)}, {found(field.y)}"


def _mismatch(description: Description, broken: str) -> ConfigError:
    return ConfigError(
        f"What env={description.env} {description.map_name} returns does not fit its description ({broken}): it is "
        "another version or has other settings; set env_args to what is described, layout.description to a "
        "description of your own, or layout.probes=False if you know better."
    )
