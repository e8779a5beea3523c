"""Tests of the environment variables that importing the plugin sets, before PyTorch reads them."""

import runpy
import sys

import pytest

import lolm_plugin

ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


@pytest.mark.parametrize("chosen", [None, *lolm_plugin.ALLOCATOR])
def test_the_allocator_of_a_gpu_has_growing_segments_unless_the_user_chose(monkeypatch, chosen):
    for name in lolm_plugin.ALLOCATOR:
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    if chosen:
        monkeypatch.setenv(chosen, "max_split_size_mb:64")
    monkeypatch.setattr(sys, "platform", "linux")
    environment = runpy.run_path(lolm_plugin.__file__)["os"].environ
    expected = {None: "expandable_segments:True", ALLOCATOR: "max_split_size_mb:64"}
    assert environment.get(ALLOCATOR) == expected.get(chosen)
