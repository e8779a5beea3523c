"""Random inputs. Each one depends only on its generator."""

import functools
import random
from pathlib import Path

from lolm_plugin.configuration import config_files
from lolm_plugin.configuration.config_check import FREE_KEYS
from tests.algorithms import HOST_DIR

ALGORITHMS = ("lolm_mappo_tiny", "rnn_mappo", "updet_mappo", "asn_attention_mappo", "dt2gs_mappo")
TASKS = {
    "probe": ("env_args.map_name=duel",),
    "smax": ("env_args.map_name=3m",),
    "gymma": ("env_args.key=lbforaging:Foraging-8x8-2p-3f-v3",),
}
SMALL = (
    *(f"{key}=2" for key in ("batch_size_run", "test_nepisode")),
    *("t_max=4", "torch_threads=1", "use_cuda=False", "epochs=1", "minibatches=1", "critic_minibatches=1"),
)
# Values of every type. NUL is left out because argv cannot hold it; \udcff stands for bytes without a valid encoding.
VALUES = (
    *("0", "1", "-1", "2", "3", "7", "-0.0", "0.5", "-0.5", "1e-9", "1e-320", "1e6", "1e30", "1e308", "1e999", "nan"),
    *("2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 30, "9" * 5000),
    *("True", "False", "None", "null", "true", "yes", "inf", "-inf", "", " ", "x", "é", "日本語", "\udcff", "a b"),
    *("..", "../..", "/", "~", "~/x", "/dev/null", "/dev/zero", "a/b", "-", "--x", "with", "a=b", "#"),
    *("[]", "[1]", "['x']", "[[1], [2]]", "()", "(1, 2)", "{}", "{'a': 1}", "{'a': {'b': [1]}}", "{1: 2}", "{1, 2}"),
    *('b"x"', "1j", "...", "'1'", '"x"', "'", "[", "{", "(" * 300, "[" * 3000, "x" * 5000, "\n", "a\nb", "\x1b[31m"),
    *("1_000", "0x10", "1e", "1.", ".5", "5e-1", "1.5e3", "lambda: 0", "{'py/object': 'os.system'}"),
    *("[{'py/reduce': [{'py/function': 'os.getcwd'}, {'py/tuple': []}]}]", "smollm2-135m", "tiny-llama", "3m", "duel"),
)
# Keys that with a valid value can make a training long, or write outside the current folder.
NOT_TRAINED = (
    *("t_max", "test_nepisode", "batch_size_run", "batch_size", "buffer_size", "epochs", "minibatches"),
    *("critic_minibatches", "mongo", "local_results_path", "decisions_file", "llm.model", "env_args.time_limit"),
)


@functools.cache
def keys() -> list[str]:
    """Return every key that a command line may set, in a fixed order."""
    envs = [path for name, path in config_files.available("envs", HOST_DIR).items() if name in TASKS]
    own = [key for path in envs for key in config_files.flatten(config_files.read(path)) if key.startswith("env_args")]
    return sorted({*config_files.known_keys(HOST_DIR), *FREE_KEYS, *own})


def command_line(rng: random.Random) -> list[str]:
    """Return a command line with an existing algorithm and environment, and valid keys with random values."""
    env = rng.choice(list(TASKS))
    updates = [f"{_key(rng)}={_value(rng)}" for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    options = [f"--config={rng.choice(ALGORITHMS)}", f"--env-config={env}", "--epymarl=none"]
    return [*options, "with", *TASKS[env], *SMALL, *updates]


def is_short(line: list[str]) -> bool:
    """Return True if a training with this command line takes only seconds and stays in the current folder."""
    return not any(update.split("=")[0] in NOT_TRAINED for update in line[line.index(SMALL[-1]) + 1 :])


def damaged_yaml(rng: random.Random) -> bytes:
    """Return one of the shipped yaml files with a few bytes, lines or values changed."""
    files = sorted(config_files.plugin_config_dir().rglob("*.yaml"))
    content = bytearray(rng.choice(files).read_bytes())
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        content = rng.choice(DAMAGES)(content, rng)
    return bytes(content)


def _key(rng: random.Random) -> str:
    key = rng.choice(keys())
    kind = rng.random()
    if kind < 0.03:
        return key.split(".")[0]  # a section
    if kind < 0.06:
        return f"{key}.{rng.choice(('x', '', 'a.b'))}"
    return key


def _value(rng: random.Random) -> str:
    if rng.random() < 0.15:
        return repr(rng.choice((rng.uniform(-2, 2), rng.randint(-5, 70), 10 ** rng.uniform(-12, 12))))
    return rng.choice(VALUES)


def _byte(content: bytearray, rng: random.Random) -> bytearray:
    if content:
        content[rng.randrange(len(content))] = rng.choice((rng.randrange(256), *b":{}[]&*!|>%@`\"'#-? \t\n"))
    return content


def _cut(content: bytearray, rng: random.Random) -> bytearray:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + content[min(end, begin + 40) :]


def _double(content: bytearray, rng: random.Random) -> bytearray:
    lines = content.split(b"\n")
    line = rng.choice(lines)
    lines.insert(rng.randrange(len(lines) + 1), line)
    return bytearray(b"\n".join(lines))


def _replace(content: bytearray, rng: random.Random) -> bytearray:
    """Replace the value of one line by a random value."""
    lines = content.split(b"\n")
    with_value = [i for i, line in enumerate(lines) if b": " in line and not line.startswith(b"#")]
    if with_value:
        index = rng.choice(with_value)
        key = lines[index].split(b": ")[0]
        lines[index] = key + b": " + rng.choice((*VALUES, *YAML_VALUES)).encode("utf-8", "surrogateescape")
    return bytearray(b"\n".join(lines))


def _insert(content: bytearray, rng: random.Random) -> bytearray:
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
    return bytearray(b"\n".join(lines))


DAMAGES = (_byte, _cut, _double, _replace, _insert)
YAML_VALUES = ("*x", "&x [*x]", "!!python/name:os.system", "!!binary aGk=", "2020-01-01", "2020-13-45", ".nan", ".inf")
LINES = (b"- a", b"? [1, 2]", b"<<: {a: 1}", b"1: 2", b"null: 1", b"---", b"...", b"%YAML 9.9", b"\xff", b"\0", b"\t")


def write(folder: Path, content: bytes) -> Path:
    """Write ``content`` to a file whose name differs from all shipped algorithms."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    return path
