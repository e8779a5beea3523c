"""Not a number and infinity are found where they first appear, and named."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.errors import NonFiniteError


def check_finite(name: str, tensor: Tensor, t_env: int, axes: Sequence[str] = (), batch: Any = None) -> None:
    """Raise NonFiniteError for the first number of ``tensor`` that is none.

    ``axes`` names its dimensions; ``batch`` is kept with the error.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        first = torch.isfinite(tensor).logical_not().nonzero()[0].tolist()
        value = float(tensor[tuple(first)])
        place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first, strict=False))
        raise NonFiniteError(
            f"{name} is {value} at environment step {t_env}{f' ({place})' if place else ''}; nothing was learned from "
            f"this batch. {ADVICE.get(name.split(' ')[0], ADVICE['loss'])}",
            batch,
        )


# Where such numbers come from.
ADVICE = {
    "obs": "The environment gave it: see its version and env_args.",
    "state": "The environment gave it: see its version and env_args.",
    "reward": "The environment gave it: see its version and env_args.",
    "log_probs": "The policy's weights have run away or overflow: lower lr, or set llm.dtype=float32.",
    "loss": "Lower lr, head_lr or critic_lr, or set llm.dtype=float32.",
}
