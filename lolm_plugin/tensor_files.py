"""Tensor files: safetensors only, with exactly the expected names and shapes."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lolm_plugin.errors import ConfigError, NonFiniteError
from lolm_plugin.untrusted import Unreadable, open_regular

LARGEST_HEADER = 16 * 2**20  # bytes of a file's names and shapes; enough for 100,000 tensors
UNBOUNDED = 2**63


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name. Raises NonFiniteError for a NaN or infinity, OSError for a full disk."""
    check_fit_to_save(tensors, Path(path).name)
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(path))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def check_fit_to_save(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise NonFiniteError if a number is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} of {where} is not finite, so no checkpoint is written.")


def load_tensors(
    path: str | Path, expected: Mapping[str, Tensor] | None = None, may_be_empty: bool = False, most: int = UNBOUNDED
) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU.

    Args:
        path: a safetensors file.
        expected: required names and shapes, checked before any tensor is read.
        may_be_empty: True if the file may also contain no tensors.
        most: largest accepted file size, in bytes.

    Raises:
        ConfigError: the file is missing, damaged or too large, or its names or shapes differ.
    """
    with _opened(path, most) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if expected is not None and (shapes or not may_be_empty):
            _check_shapes(shapes, expected, str(path))
        return {name: file.get_tensor(name) for name in shapes}


def tensor_sizes(path: str | Path) -> list[int]:
    """Return the numbers of elements of a file's tensors, from its header. Raises ConfigError as ``load_tensors``."""
    with _opened(path) as file:
        return [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise ConfigError unless ``tensors`` has the names and shapes of ``expected``. ``where`` is for the message."""
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, where)


@contextmanager
def _opened(path: str | Path, most: int = UNBOUNDED) -> Iterator[Any]:
    if not Path(path).is_file():
        raise ConfigError(f"The checkpoint has no file {path}; set checkpoint_path to a folder that save_model wrote.")
    try:
        with open_regular(Path(path), most) as file:
            if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
                raise Unreadable("lists too many tensors")
        with safe_open(str(path), "pt") as opened:
            yield opened
    except (SafetensorError, Unreadable) as error:
        raise ConfigError(f"{path} is damaged ({error}); set load_step to another checkpoint.") from error


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor], where: str) -> None:
    problems = [f"missing {name}" for name in expected.keys() - shapes.keys()]
    problems += [f"unexpected {name}" for name in shapes.keys() - expected.keys()]
    problems += [
        f"{name} has shape {shapes[name]} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & shapes.keys()
        if shapes[name] != tuple(expected[name].shape)
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ConfigError(
            f"{where} does not fit this model ({shown}); load it with the --config, llm and lora keys of its training."
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an Adam-like optimiser's state under flat names ``<parameter index>.<name>``."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def expected_optimiser_tensors(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Return tensors with the names and shapes of Adam's state after its first step."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    shapes = {"step": torch.zeros(())}
    return {f"{i}.{n}": shapes.get(n, p) for i, p in enumerate(parameters) for n in ("step", "exp_avg", "exp_avg_sq")}


def load_optimiser_tensors(
    optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor], where: str = "The optimiser's state"
) -> None:
    """Restore what ``optimiser_tensors`` returned. Learning rates come from the configuration.

    An empty state is valid: it was saved before the first update.

    Raises:
        ConfigError: the state does not fit the parameters.
    """
    if tensors:
        check_tensors(tensors, expected_optimiser_tensors(optimiser), where)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
