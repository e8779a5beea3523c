"""``lolm doctor --config ... --env-config ...``: what it counts and says about a run, and what it refuses."""

import re

import pytest
import torch

from lolm_plugin.commands import lolm
from lolm_plugin.controllers.prompt_controller import TOKEN_BUDGETS
from lolm_plugin.doctor import language_model, machine, networks
from lolm_plugin.doctor.plan import Plan
from lolm_plugin.llm import smollm2, tiny
from lolm_plugin.observations import build_layouts

GIB = 2**30


@pytest.fixture
def doctor(capsys):
    """Run ``lolm doctor`` with arguments: the exit code and what was printed, errors included."""

    def run(*arguments, host="--epymarl=none"):
        options = [host] if arguments and host else []
        code = lolm.main(["lolm", "doctor", *options, *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def lines(text):
    """The lines of the one section: what -> detail, and what is not usable."""
    found = re.findall(r"^  \[(ok|--)\] (.+?): (.+)$", text, flags=re.MULTILINE)
    return {what: detail for _, what, detail in found}, [what for sign, what, _ in found if sign == "--"]


def number(text):
    """``3.5 million`` or ``12,345`` at the beginning of a text."""
    digits, unit = re.match(r"([\d,.]+)( million)?", text).groups()
    return float(digits.replace(",", "")) * (1e6 if unit else 1)


# What is counted is what is built


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora.layers": 1, "lora.rank": 3},
        {"lora.targets": ["q_proj", "v_proj"]},
        {"llm.num_layers": 1},
        {"head.attack_keys": "entity"},
        {"llm.model": "tiny-qwen3"},
        {"llm.model": "tiny-gemma3"},
        {"llm.train": "full", "kl.enabled": False},
    ],
    ids=str,
)
def test_parameters_are_those_of_the_built_policy(changes, new_learner, tiny_args):
    args = tiny_args(changes)
    learner = new_learner(args)
    counted = language_model.measure(vars(args), "cpu")
    backbone = learner.mac.agent.backbone
    assert counted.all == networks.count(learner.mac.agent)
    assert counted.trained == sum(parameter.numel() for parameter in learner.mac.parameters())
    assert counted.adapter == sum(parameter.numel() for parameter in backbone.lora_parameters())
    assert (counted.layers, counted.layers - counted.adapted) == (
        backbone.num_layers,
        backbone.encoder.settings.frozen_layers,
    )
    assert counted.dtype == next(backbone.lm.parameters()).dtype
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    assert networks.count(networks.build_critic(layouts, vars(args))) == networks.count(learner.critic)


def test_the_dtype_of_weights():
    kinds = {(device, frozen): language_model.weight_dtype("auto", device, frozen) for device, frozen in _KINDS}
    assert [kind for kind, dtype in kinds.items() if dtype == torch.bfloat16] == [("cuda", True)]
    assert language_model.weight_dtype("bfloat16", "cpu", True) == torch.bfloat16


_KINDS = [(device, frozen) for device in ("cpu", "cuda") for frozen in (True, False)]


def test_tokens_are_those_of_a_run(tiny_args):
    config = vars(tiny_args({"llm.token_budget": None, "batch_size_run": 4}, n_agents=3, n_enemies=3))
    layouts = build_layouts(config["env"], config["env_args"], 3, config["n_actions"], config["layout"])
    run = Plan(layouts, 60, True, 30, 2.0, battles=4, updates=1, tests=1, test_battles=4)
    shared = language_model.reading(config, run, "cpu")
    lengths = shared.lengths
    assert 0 < lengths.prefix < lengths.mean < lengths.longest
    assert shared.decision == lengths.mean
    assert shared.batch == 4 * 60 * 3 * lengths.mean
    assert (shared.budget, shared.at_once) == (TOKEN_BUDGETS["cpu"], TOKEN_BUDGETS["cpu"])
    config["llm"] |= {"share_prefix": False, "token_budget": 1}
    alone = language_model.reading(config, run, "cpu")
    assert alone.decision == lengths.prefix + lengths.mean
    assert alone.at_once == lengths.prefix + lengths.longest


# The command


def test_a_tiny_model_on_a_probe(doctor):
    code, text = doctor("--config", "lolm_mappo_tiny", "--env-config", "probe")
    found, unusable = lines(text)
    assert code == 0
    assert text.count("\n\n") == 0  # one section
    assert text.startswith("\nEstimate of lolm_mappo_tiny on probe retreat")
    assert not unusable
    assert "LoRA on 2 of 2 layers" in found["policy"]
    assert found["battles"].startswith("1 agent against 1 enemy for up to 1 step; taken as typical: 1 step")
    assert found["run"] == "6,000 environment steps, about 24 updates of 256 battles, 5 tests of 64 battles"
    assert "tokens that all share" in found["prompts"]
    for what in ("frozen weights", "LoRA, head and critic", "activations", "stored battles"):
        assert re.match(r"[\d.]+ [MG]iB", found[f"memory for {what}"])
    assert "are free in main memory" in found["memory in all"]
    assert re.match(r"at least .+, at [\d,]+ GFLOP/s of matrix products, measured now on 1 thread", found["time"])


def test_a_small_network_on_smax(doctor, new_learner, tiny_args):
    code, text = doctor("--config=updet_mappo", "--env-config=smax", "with", "env_args.map_name=3m")
    found, unusable = lines(text)
    learner = new_learner(tiny_args(n_agents=3, n_enemies=3, algorithm="updet_mappo"))
    assert code == 0
    assert not unusable
    assert number(found["policy"]) == networks.count(learner.mac.agent)
    assert number(found["critic"]) == networks.count(learner.critic)
    assert found["battles"].startswith("3 agents against 3 enemies for up to 60 steps; taken as typical: 30 steps")
    assert "2 decisions a step" in found["battles"]
    assert "prompts" not in found
    assert "most of it is the environment's" in found["time"]


def test_a_pretrained_model_on_smax(doctor):
    smollm2.folder()  # fetched once a machine, as other tests do
    arguments = ("--config=lolm_mappo_smol", "--env-config=smax", "with", "env_args.map_name=3m")
    code, text = doctor(*arguments, "lora.layers=1")
    found, _ = lines(text)
    assert code == 0
    # Embeddings, and in each of 4 layers queries, keys, values, output, the feed-forward layer and two norms; a norm.
    of_layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    lora = 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    # Embeddings and biases of actions; of targets' sentences a projection and what is asked for everywhere.
    head = 7 * 576 + 7 + 576 * 576 + 576
    assert number(found["policy"]) == pytest.approx(49152 * 576 + 4 * of_layer + 576 + lora + head, rel=2e-3)
    assert f"of which {lora + head:,} learn: LoRA on 1 of 4 layers" in found["policy"]
    assert "llm.trunk_cache_gb=4 at most" in found["memory for states below the adapter"]
    assert re.match(r"about .+, of which .+ to learn, at [\d,]+ GFLOP/s of matrix products", found["time"])
    assert "within a factor of about 2, without the environment's own time" in found["time"]


def test_a_task_without_teams(doctor):
    task = ("--env-config=gymma", "with", "env_args.key=rware:rware-tiny-2ag-v2", "env_args.time_limit=60")
    code, text = doctor("--config=lolm_mappo_tiny", *task)
    assert code == 0, text
    found, _ = lines(text)
    task_said, typical = found["episodes"].split("; taken as typical: ")
    assert task_said == "2 agents in a warehouse of 11 by 10 cells for up to 60 steps"
    assert typical == "60 steps and 2 decisions a step"
    assert number(found["prompts"]) > 40
    assert doctor("--config=rnn_mappo", *task)[0] == 0


def test_no_weights_and_no_environment_are_loaded(tmp_path, fresh_python):
    for part in (tiny.config("tiny-qwen3"), tiny.tokenizer()):
        part.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    arguments = ["--config=lolm_mappo", "--env-config=smax", "--epymarl=none", "with", f"llm.model={tmp_path}"]
    program = f"import sys; from lolm_plugin.commands import lolm; print(lolm.main(['lolm', 'doctor', *{arguments!r}]))"
    text = fresh_python(f"{program}; print([name for name in sys.modules if name.startswith('jax')])")
    assert "LoRA on 2 of 2 layers" in text
    assert text.splitlines()[-2:] == ["0", "[]"]


def test_a_model_of_the_hub_is_estimated_where_its_config_is_at_hand(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = ("--config=lolm_mappo", "--env-config=probe", "with", "llm.model=owner/name")
    code, text = doctor(*arguments)
    assert code == 2
    assert text.startswith("error: llm.model=owner/name has no config and tokenizer in the Hugging Face cache")
    commit = "a" * 40
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    for part in (tiny.config("tiny-qwen3"), tiny.tokenizer()):
        part.save_pretrained(folder / "snapshots" / commit)
    code, text = doctor(*arguments)
    assert (code, "LoRA on 2 of 2 layers" in text) == (0, True)


def test_smollm2_is_not_fetched_for_an_estimate(doctor, tmp_path, monkeypatch):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path))
    code, text = doctor("--config=lolm_mappo_smol", "--env-config=probe")
    assert code == 2
    assert text.startswith("error: llm.model=smollm2-135m is not in the cache yet")
    assert not list(tmp_path.iterdir())


def test_a_run_that_does_not_fit_is_told_what_to_lower_in_order(doctor, monkeypatch):
    monkeypatch.setattr(machine, "room", lambda device: machine.Room(GIB / 2, GIB))
    code, text = doctor("--config=lolm_mappo_tiny", "--env-config=probe", "with", "llm.product=torch")
    found, unusable = lines(text)
    assert (code, unusable) == (0, ["memory in all"])
    ways = found["memory in all"].split("which is too little: ")[1].split(", then ")
    keys = ("llm.token_budget (16384 now)", "llm.recompute=True", "lora.layers (2 now)", "batch_size_run (256 now)")
    assert [key in way for key, way in zip(keys, ways, strict=True)] == [True] * 4
    _, text = doctor("--config=updet_mappo", "--env-config=smax")
    assert "too little: lower microbatch (8192 now), then lower batch_size_run (32 now)" in text


def test_a_machine_that_does_not_tell_its_memory(doctor, monkeypatch):
    monkeypatch.setattr(machine, "room", lambda device: None)
    code, text = doctor("--config=updet_mappo", "--env-config=smax")
    assert code == 0
    assert "how much is free in main memory the system does not tell" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=lolm_mappo_tiny"], "--env-config is missing; set it to one of: gymma, probe, smax."),
        (["--env-config=probe"], "--config is missing; set it to one of: "),
        (["--config=nothing", "--env-config=probe"], "--config=nothing is neither a yaml file nor a known name"),
        (["--config=lolm_mappo_tiny", "--env-config=probe", "with", "llm.layers=2"], "The key llm.layers"),
        (["--config=updet_mappo", "--env-config=smax", "with", "kl.enabled=True"], "kl.enabled=True cannot be used"),
        (["--config=lolm_mappo_tiny", "--env-config=probe", "t_max=5"], "t_max=5 stands before the word `with`"),
        (["--config=lolm_mappo_tiny", "--env-config=probe", "--cure"], "lolm doctor does not know --cure"),
        (["--config=lolm_mappo_tiny", "--env-config=probe", "with", "llm.num_layers=3"], "llm.num_layers=3 is not"),
        (["--config=lolm_mappo_tiny", "--env-config=probe", "with", "lora.layers=3"], "lora.layers=3 is not within"),
        (["--config=lolm_mappo_tiny", "--env-config=smax", "with", "env_args.map_name=MMM"], "SMAX has no medivac"),
        (["with", "t_max=5"], "lolm doctor does not know --epymarl=none; it takes"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(arguments, sentence, doctor):
    code, text = doctor(*arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


def test_the_hosts_own_algorithms_are_not_estimated(doctor, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text('name: "own"\nmac: "their_mac"\nlearner: "q_learner"\n')
    code, text = doctor(f"--config={own}", "--env-config=probe")
    assert code == 2
    assert "is the host's own algorithm" in text
