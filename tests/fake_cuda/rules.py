"""Self-test of the stand-in CUDA device, in a separate process: ``python -m tests.fake_cuda.rules``."""

from collections.abc import Callable
from typing import Any

import torch

from tests.fake_cuda import device


def refused(operation: Callable[[], Any]) -> bool:
    """Return True if the operation raises the error of a wrong device."""
    try:
        operation()
    except (RuntimeError, TypeError):
        return True
    return False


def main() -> None:
    """Check every rule. Raises AssertionError."""
    device.install()
    on_gpu, on_cpu = torch.ones(3, device="cuda"), torch.ones(3)
    integers = torch.ones(2, 2, device="cuda", dtype=torch.int64)
    layer = torch.nn.Linear(3, 2).to("cuda")
    gru, steps = torch.nn.GRU(3, 3).to("cuda"), torch.ones(1, 4, 3, device="cuda")
    half = torch.ones(2, 2, dtype=torch.bfloat16)

    allowed = {
        "a new tensor": on_gpu,
        "an operation": on_gpu * 2,
        "a view": on_gpu[:1],
        "a move": on_cpu.to(on_gpu.device),
        "a number of the CPU": on_gpu + torch.tensor(2.0),
        "an index of the CPU": on_gpu[torch.tensor([0, 1])],
        "new_zeros": on_gpu.new_zeros(2),
        "zeros_like": torch.zeros_like(on_gpu),
        "a layer": layer(on_gpu),
        "a contiguous state": gru(steps, torch.zeros(1, 4, 3, device="cuda"))[0],
        "a product in float32": torch.mm(half.cuda(), half.cuda(), out_dtype=torch.float32),
    }
    for name, tensor in allowed.items():
        assert tensor.is_cuda, name
    assert on_gpu.cpu().device == device.CPU

    wrong: dict[str, Callable[[], Any]] = {
        "a sum of two devices": lambda: on_gpu + on_cpu,
        "cat": lambda: torch.cat([on_gpu, on_cpu]),
        "a CPU tensor with a CUDA index": lambda: on_cpu[torch.tensor([0], device="cuda")],
        "numpy": lambda: on_gpu.numpy(),
        "index_select with a CPU index": lambda: on_gpu.index_select(0, torch.tensor([0])),
        "gather with a CPU index": lambda: on_gpu.gather(0, torch.tensor([0])),
        "where with a CPU mask": lambda: torch.where(torch.tensor([True, False, True]), on_gpu, on_gpu),
        "isin": lambda: torch.isin(on_gpu, on_cpu),
        "assignment of CPU values": lambda: on_gpu.__setitem__(torch.tensor([0, 1]), on_cpu[:2]),
        "in-place addition to a CPU tensor": lambda: on_cpu.add_(on_gpu),
        "an embedding of CPU ids": lambda: torch.nn.functional.embedding(torch.tensor([0]), on_gpu.view(1, 3)),
        "a product of integers": lambda: integers @ integers,
        "a layer of another device": lambda: layer(on_cpu),
        "an expanded state": lambda: gru(steps, torch.zeros(1, 1, 3, device="cuda").expand(1, 4, 3)),
        "a product in float32 on the CPU": lambda: torch.mm(half, half, out_dtype=torch.float32),
    }
    for name, operation in wrong.items():
        assert refused(operation), f"allowed: {name}"

    weight = torch.ones(3, device="cuda", requires_grad=True)
    (weight * on_gpu).sum().backward()
    assert weight.grad is not None
    assert weight.grad.is_cuda
    device.syncs.clear()
    on_gpu.sum().item()
    assert sum(device.syncs.values()) == 1
    print("all rules hold")


if __name__ == "__main__":
    main()
