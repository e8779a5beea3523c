"""The GPU's rates: peaks from NVIDIA's data sheets, and what this machine reaches in a matrix product and in a copy."""

import re
from collections.abc import Callable

import torch

from benchmarks.setting import alternate

# Peak of dense matrix products in bfloat16 with float32 sums, in TFLOP/s, by the name that torch reports. Sources:
# NVIDIA's data sheets of each product (A100, A30, A10, A40, H100, H200, L4, L40, L40S, RTX A6000, RTX 6000 Ada, HGX
# B200), and the appendices of its architecture papers for GeForce (GA102, Ada, RTX Blackwell). Values that a data sheet
# gives with sparsity are halved. A name must match as a whole: a laptop's or another variant's peak is unknown.
PEAKS = {
    r"NVIDIA B200": 2250.0,
    r"NVIDIA (H200|GH200 480GB|H100 80GB HBM3|H100 SXM5.*)": 989.4,
    r"NVIDIA (H200 NVL|H100 NVL)": 835.5,
    r"NVIDIA H100 PCIe": 756.0,
    r"(NVIDIA )?A100-(SXM4|PCIE|PCIe)-\d+GB|NVIDIA A100 80GB PCIe": 312.0,
    r"NVIDIA A30": 165.0,
    r"NVIDIA A40": 149.7,
    r"NVIDIA A10": 125.0,
    r"NVIDIA L40S": 362.0,
    r"NVIDIA L40": 181.0,
    r"NVIDIA L4": 121.0,
    r"NVIDIA RTX 6000 Ada Generation": 364.2,
    r"NVIDIA RTX A6000": 154.8,
    r"NVIDIA GeForce RTX 5090": 209.5,
    r"NVIDIA GeForce RTX 4090": 165.2,
    r"NVIDIA GeForce RTX 4080": 97.5,
    r"NVIDIA GeForce RTX 3090": 71.0,
}
REPEATS = 5


def peak_tflops(name: str | None) -> float | None:
    """Return the peak of a GPU in bfloat16, in TFLOP/s; None if it is unknown."""
    return next((peak for pattern, peak in PEAKS.items() if name and re.fullmatch(pattern, name)), None)


def describe(device: str) -> dict[str, str | int | float | None]:
    """Describe the GPU; all values are None on a CPU."""
    if device == "cpu":
        return dict.fromkeys(("name", "peak_bf16_tflops", "memory_bytes", "capability", "driver_cuda"))
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "peak_bf16_tflops": peak_tflops(properties.name),
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver_cuda": torch.version.cuda,
    }


@torch.no_grad()
def measured_rates(device: str, width: int) -> dict[str, float]:
    """Measure a bfloat16 product of two random [width, width] matrices, and a copy of one of them."""
    one, other = (torch.randn(width, width, device=device).bfloat16() for _ in range(2))
    target = torch.empty_like(one)
    sides = {"product": lambda: one @ other, "copy": lambda: target.copy_(one)}
    alternate(sides, 2, device)  # warm-up
    seconds = alternate(sides, REPEATS, device)
    return {
        "product_tflops": 2 * width**3 / seconds["product"] / 1e12,
        "copy_gigabytes_per_second": 2 * one.nbytes / seconds["copy"] / 1e9,
    }


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Return the median time of ``work`` after a warm-up."""
    alternate({"work": work}, 1, device)
    return 1000 * alternate({"work": work}, REPEATS, device)["work"]


def reset_peak_memory(device: str) -> None:
    """Free cached memory and start a new measurement of the peak."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int | None:
    """Return the peak of allocated GPU memory in bytes since ``reset_peak_memory``; None on a CPU."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated()
