"""docs/baselines.md agrees with the code and covers every key and file."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.configuration.config_check import apply_updates
from lolm_plugin.configuration.config_files import plugin_config_dir, read, resolve
from lolm_plugin.modules.heads import build_head
from lolm_plugin.observations import build_layouts
from lolm_plugin.paths import BUNDLED

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/baselines.md").read_text()
DEFAULTS = read(plugin_config_dir() / "default.yaml")
ALGORITHMS = {path.stem for path in (plugin_config_dir() / "algs").glob("*.yaml")}
PRESETS = {path.stem for path in (plugin_config_dir() / "presets").glob("*.yaml")}


def table(heading):
    """Return the table whose header begins with ``heading``, as {first cell: {column: cell}}."""
    lines = TEXT.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")]
    columns, rows = _cells(lines[start]), {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = _cells(line)
        assert len(cells) == len(columns), line
        rows[cells[0].strip("`")] = dict(zip(columns, cells, strict=True))
    return rows


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


OVERVIEW = table("`--config`")
LANGUAGE_MODELS = [name for name in OVERVIEW if name.startswith(("lolm", "transformer"))]
NETWORKS = [name for name in OVERVIEW if name not in LANGUAGE_MODELS]


def number(cell):
    return None if cell == "–" else int(cell.replace(",", ""))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def configured(algorithm, **updates):
    """Return the arguments of a run on SMAX's 3m."""
    config = apply_updates(resolve(algorithm, "smax", BUNDLED / "config"), updates, BUNDLED / "config")
    n_agents, n_actions = registry.load(registry.MAP_SIZES["smax"])(config["env_args"])
    return SimpleNamespace(**{**config, "n_agents": n_agents, "n_actions": n_actions, "seed": 1})


def networks(args):
    """Return (policy, critic) of a run; the policy is None for a language model."""
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    scheme = {"obs": {"vshape": layouts.observation.size}, "state": {"vshape": layouts.state.size}}
    critic = registry.load(registry.ENTRIES["critic"][args.critic_type])(scheme, args)
    if args.agent == "llm":
        return None, critic
    return registry.load(registry.ENTRIES["agent"][args.agent])(layouts.observation, args), critic


def test_every_line_of_the_overview_is_an_algorithm_and_every_preset_has_one():
    assert set(OVERVIEW) <= ALGORITHMS
    assert set(OVERVIEW) >= PRESETS | {"rnn_mappo"}


@pytest.mark.parametrize("algorithm", NETWORKS)
def test_the_parameter_counts_of_the_networks_match_the_code(algorithm):
    row = OVERVIEW[algorithm]
    policy, critic = networks(configured(algorithm))
    assert (number(row["actor, default"]), number(row["critic, default"])) == (count(policy), count(critic))
    assert (row["memory"] == "yes") == (policy.hidden_width > 0)
    assert (row["other maps"] == "yes") == (configured(algorithm).agent in registry.TRUNKS)
    reference = (None, None)
    if algorithm in PRESETS:
        reference = tuple(map(count, networks(configured(algorithm, preset="reference"))))
    assert (number(row["actor, `preset=reference`"]), number(row["critic, `preset=reference`"])) == reference


@pytest.mark.parametrize(
    ("heading", "column", "algorithm"),
    [
        ("layer | `updet_mappo`", 2, "updet_mappo"),
        ("layer | `updet_mappo`", 4, "updet_paper"),
        ("layer (SMAX `3m`)", 2, "rnn_mappo"),
    ],
)
def test_the_layers_add_up(heading, column, algorithm):
    start = TEXT.index(f"| {heading}")
    rows = [_cells(line) for line in TEXT[start:].split("\n\n")[0].splitlines()[2:]]
    total = sum(number(row[column]) or 0 for row in rows if row[0] != "critic")
    assert total == number(OVERVIEW[algorithm]["actor, default"])


@pytest.mark.parametrize(
    ("section", "algorithm"), [("# ASN-Attention:", "asn_attention_mappo"), ("# DT2GS:", "dt2gs_mappo")]
)
def test_the_layers_of_a_section_add_up(section, algorithm):
    rows = TEXT[TEXT.index(section) :].split("| layer | shape | parameters |")[1].split("\n\n")[0].splitlines()[2:]
    assert sum(number(_cells(row)[2]) for row in rows) == number(OVERVIEW[algorithm]["actor, default"])


@pytest.mark.parametrize("algorithm", LANGUAGE_MODELS)
def test_the_parameter_counts_of_the_language_models_match_the_code(algorithm):
    """Qwen3-0.6B is built from its published sizes, without loading weights."""
    from transformers import Qwen3Config, Qwen3Model

    args, published = configured(algorithm), configured(algorithm, preset="reference")
    assert (args.llm["model"], args.llm["num_layers"], args.lora["targets"]) == ("Qwen/Qwen3-0.6B", None, "all-linear")
    shape = {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    with torch.device("meta"):
        model = Qwen3Model(Qwen3Config(**shape, **heads))
    head, published_head, total = (
        count(build_head(1024, args.head)),
        count(build_head(1024, published.head)),
        count(model),
    )
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    adapter = sum(args.lora["rank"] * (layer.in_features + layer.out_features) for layer in linear)
    for form, config, size in (("default", args, head), ("`preset=reference`", published, published_head)):
        parts = {"lora": f"{adapter + size:,} of {total + adapter + size:,}", "full": f"{total + size:,}"}
        assert OVERVIEW[algorithm][f"actor, {form}"] == parts[args.llm["train"]]
        assert number(OVERVIEW[algorithm][f"critic, {form}"]) == count(networks(config)[1])
    assert all(f"| {value:,} |" in TEXT for value in (total, adapter, head, published_head))


def test_the_learner_presets_match_the_files():
    files = {path.stem: read(path) for path in (plugin_config_dir() / "learners").glob("*.yaml")}
    rows = table("key | `standard`")
    assert set(rows) == {key for file in files.values() for key in file}
    for key, row in rows.items():
        assert {name: row[f"`{name}`"] for name in files} == {name: str(file[key]) for name, file in files.items()}, key


@pytest.mark.parametrize("section", ["entity", "gru", *registry.TRUNKS])
def test_every_key_of_a_network_is_explained(section):
    settings = DEFAULTS.get(section, {})
    assert settings or section not in ("entity", "gru", "updet", "asn_attention", "dt2gs")
    missing = [key for key in settings if not re.search(rf"`{section}\.{key}[`=]", TEXT)]
    assert not missing


@pytest.mark.parametrize("key", DEFAULTS["entity"])
def test_the_table_of_unit_tokens_has_defaults_and_published_values(key):
    row = table("key | default | published")[f"entity.{key}"]
    default = DEFAULTS["entity"][key]
    shown = "null" if default is None else str(default).replace("'", "")
    assert row["default"].strip("`") == shown
    reference = read(plugin_config_dir() / "presets/updet_mappo.yaml")["reference"]["entity"]
    published = reference.get(key, True)  # the published error in the type bits is not part of the preset
    assert row["published"].strip("`") == str(published)


def test_every_metric_of_a_network_is_in_the_metrics_page():
    described = (ROOT / "docs/metrics.md").read_text()
    names = set(re.findall(r"`((?:critic_)?(?:attention|subtask|reconstruction)_(?!kl_coef|coef)\w+)`", TEXT))
    assert names >= {"attention_own", "subtask_0", "reconstruction_loss", "subtask_kl_loss"}
    assert not [name for name in names if f"`{name}`" not in described]


def test_links_are_valid():
    for document in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            assert link.startswith("https://") or (document.parent / link).exists(), (document, link)


def test_every_named_test_file_exists():
    text = (ROOT / "docs/reliability.md").read_text()
    named = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
