"""What is looked at before anything is learned: numbers that are none, and a policy that is not the one that played."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.errors import NonFiniteError
from lolm_plugin.finite import check_finite


def check_batch(batch: Any, t_env: int) -> None:
    """Raise NonFiniteError for the first observation, state or reward that is not finite; padding is zeros."""
    for name, axes in (("obs", ("episode", "step", "agent", "number")), ("state", ("episode", "step", "number"))):
        check_finite(name, batch[name], t_env, axes, batch)
    check_finite("reward", batch["reward"], t_env, ("episode", "step", "agent"), batch)


def check_losses(outputs: Tensor, losses: Mapping[str, Tensor], loss: Tensor, t_env: int, batch: Any) -> None:
    """Raise NonFiniteError for what is not finite, what comes first first; all is well where their sum is."""
    if not bool(torch.isfinite(loss.detach())):
        check_finite("log_probs or values of the batch", outputs.detach(), t_env, batch=batch)
        for name, value in losses.items():
            check_finite(f"loss {name}", value.detach(), t_env, batch=batch)
        check_finite("loss", loss.detach(), t_env, batch=batch)


def check_ratio(ratio: float, tolerance: float, t_env: int, batch: Any) -> None:
    """Raise NonFiniteError unless the policy gives each action, before its first step, its probability in play."""
    if not abs(ratio - 1) <= tolerance:
        raise NonFiniteError(
            f"ratio_epoch0 is {ratio:.4g} at environment step {t_env} and has to be 1 within {tolerance:g}: the policy "
            "that learns is not the one that played. Set llm.dtype=float32 or llm.product=torch; with both, this is a "
            "bug worth a report.",
            batch,
        )
