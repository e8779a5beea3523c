"""Checks of an update: no NaN or infinity, and the policy must be the one that collected the batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lolm_plugin.errors import NonFiniteError
from lolm_plugin.map_batches import MapBatches
from lolm_plugin.protocols import Batch

ENVIRONMENT = "It comes from the environment: check its version and env_args."
LOSS = "Lower lr, head_lr or critic_lr, or set llm.dtype=float32."
# First word of a tensor's name -> advice.
ADVICE = {
    **dict.fromkeys(("obs", "state", "reward"), ENVIRONMENT),
    "log_probs": "The policy's weights diverged or overflowed: lower lr, or set llm.dtype=float32.",
}


def check_finite(
    name: str, tensor: Tensor, t_env: int, axes: Sequence[str] = (), batch: Batch | MapBatches | None = None
) -> None:
    """Raise NonFiniteError for the first NaN or infinity of ``tensor``.

    ``axes`` are names of its dimensions. The error keeps ``batch``.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        first = torch.isfinite(tensor).logical_not().nonzero()[0].tolist()
        value = float(tensor[tuple(first)])
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first, strict=False))
        raise NonFiniteError(
            f"{name} is {value} at environment step {t_env}{f' ({where})' if where else ''}; nothing was learned from "
            f"this batch. {ADVICE.get(name.split(' ')[0], LOSS)}",
            batch,
        )


def check_batch(batch: Batch | MapBatches, t_env: int) -> None:
    """Raise NonFiniteError for the first non-finite observation, state or reward. Padding is zeros."""
    for part in batch.parts if isinstance(batch, MapBatches) else (batch,):
        for name, axes in (("obs", ("episode", "step", "agent", "number")), ("state", ("episode", "step", "number"))):
            check_finite(name, part[name], t_env, axes, batch)
        check_finite("reward", part["reward"], t_env, ("episode", "step", "agent"), batch)


def check_losses(outputs: Tensor, losses: Mapping[str, Tensor], loss: Tensor, t_env: int, batch: Batch) -> None:
    """Raise NonFiniteError for the first non-finite tensor if the summed ``loss`` is not finite.

    Order of the checks: the network's ``outputs``, the single ``losses``, the sum.
    """
    if not bool(torch.isfinite(loss.detach())):
        check_finite("log_probs or values of the batch", outputs.detach(), t_env, batch=batch)
        for name, value in losses.items():
            check_finite(f"loss {name}", value.detach(), t_env, batch=batch)
        check_finite("loss", loss.detach(), t_env, batch=batch)


def check_ratio(ratio: float, tolerance: float, t_env: int, batch: Batch | None, name: str = "ratio_epoch0") -> None:
    """Raise NonFiniteError unless the importance ratio before the first optimiser step is 1 within ``tolerance``."""
    if not abs(ratio - 1) <= tolerance:
        raise NonFiniteError(
            f"{name} is {ratio:.4g} at environment step {t_env} but must be 1 within {tolerance:.4g}: the policy "
            "that learns is not the one that played. Set llm.dtype=float32; if it is set, please report a bug.",
            batch,
        )
