"""Tensors on disk: safetensors only, loaded strictly."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lolm_plugin.errors import ConfigError, NumbersError


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name. Raises NumbersError rather than keep one that is not finite, OSError for a full disk."""
    check_fit_to_save(tensors, Path(path).name)
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(path))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def check_fit_to_save(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise NumbersError unless every number is finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumbersError(f"{name} of {where} is not finite, so no checkpoint is written.")


def load_tensors(path: str | Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU.

    With ``expected``, names and shapes must be exactly those, else ConfigError says which are not.
    """
    if not Path(path).is_file():
        raise ConfigError(f"The checkpoint has no file {path}; set checkpoint_path to a folder that save_model wrote.")
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged ({error}); set load_step to another checkpoint.") from error
    if expected is not None:
        check_tensors(tensors, expected, str(path))
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise ConfigError unless both have the same names with the same shapes."""
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ConfigError(
            f"{where} does not fit this model ({shown}); load it with the --config, llm and lora keys of its training."
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An Adam-like optimiser's state as flat names ``<parameter index>.<name>``."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def load_optimiser_tensors(
    optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor], where: str = "The optimiser's state"
) -> None:
    """Put back what ``optimiser_tensors`` returned; learning rates stay those of the configuration.

    Raises ConfigError unless there is a state of every parameter's shape, or none at all (nothing learnt yet).
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if tensors:
        shapes = {"step": torch.zeros(())}
        check_tensors(
            tensors,
            {f"{i}.{n}": shapes.get(n, p) for i, p in enumerate(parameters) for n in ("step", "exp_avg", "exp_avg_sq")},
            where,
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
