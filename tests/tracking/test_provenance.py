import subprocess
import sys

BALLAST = 700 * 2**20  # bytes; more than a process needs that imports torch


def test_the_peak_memory_of_a_child_leaves_its_parent_out():
    ballast = bytearray(BALLAST)
    ballast[::4096] = b"1" * (BALLAST // 4096)  # touched, so that the pages are in memory
    program = "from lolm_plugin.tracking.provenance import peak_memory; print(peak_memory()['peak_memory_mb'])"
    peak = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert 10 < peak < len(ballast) / 1e6
