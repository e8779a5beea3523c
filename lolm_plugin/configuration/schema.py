"""Schema of all keys: type, range, choices and further properties. config/default.yaml explains each key.

A key's annotation is its type (``| None``: it may be null) with marks. Marks give the range, the choices, the runs that
read the key, its treatment in a resumed run, and whether its value is taken from a checkpoint. A new key needs a line
here and a line in its yaml. Keys of EPyMARL's own algorithms, of environments and of a user's algorithms need no line
here: the value in their yaml gives the type.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from lolm_plugin import registry
from lolm_plugin.configuration.fields import Choice, Field, Mark, Range, ReadIf, Trusted, Withheld, fields_of


def _never(test: Callable[..., bool], *keys: str) -> ReadIf:
    return ReadIf(keys, test, never=True)


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def trunks(agent: str, critic_type: str) -> set[str]:
    """Return the names of the entity networks of a run, which are also the names of their sections."""
    return {agent, critic_type.removesuffix("_critic")} & registry.TRUNKS.keys()


def _unread(key: str, why: str = "") -> ReadIf:
    """Mark a key that no run of lolm_plugin reads. Its error names ``why`` or the value of ``key``."""
    return ReadIf((key,), lambda value: False, never=True, why=why)


LLM = _never(_is("llm"), "agent")
NOT_LLM = _never(lambda agent: agent != "llm", "agent")
TRUNK = _never(lambda agent, critic: bool(trunks(agent, critic)), "agent", "critic_type")
SINGLE_ENVS = ReadIf(("runner",), lambda runner: runner != "vector")
SUPERVISED = ReadIf(("runner",), _is("supervised_parallel"))
SAVING = ReadIf(("save_model",), bool)
LOADING = ReadIf(("checkpoint_path", "transfer_from"), lambda path, source: bool(path or source))
WANDB = ReadIf(("use_wandb",), bool)
HELD_OUT = ReadIf(("test_maps",), bool)
PPO = ReadIf(("imitate.teacher",), lambda teacher: not teacher, why="lolm imitate has its own settings under imitate")
IMITATION = ReadIf(("imitate.teacher",), bool, why="only lolm imitate reads it")

# Ids that are registered in Gymnasium need no import. A module before a colon is imported: only packages of our extras
# and of EPyMARL's environments are allowed.
TASK = Trusted(
    re.compile(
        r"(?:(?:lbforaging|rware|smaclite|matrixgames):)?(?:\w[\w.-]*/)?\w[\w.-]*"
        r"|pz-(?:mpe|sisl|butterfly|classic|atari)-[\w-]+|vmas-[\w-]+"
    )
)
MODELS = Trusted(re.compile(r"smollm2-135m|tiny-llama|tiny-qwen3|tiny-gemma3|Qwen/Qwen3-0\.6B"))

RENAMED = {"llm.trunk_cache_gb": "llm.frozen_cache_gb"}  # in 0.2.0
REMOVED = ("llm.product", "llm.matmul")  # in 0.2.0: PyTorch's products are as fast or faster
Name = Annotated[str, Mark.NAME]
Names = Annotated[list[str], Mark.NAME]
Fraction = Annotated[float, Range(least=0, most=1)]
NotNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
PositiveWhole = Annotated[int, Range(above=0)]
Interval = Annotated[int, Range(least=0)]
Count = Annotated[int, Range(above=0, most=1_000_000)]
Size = Annotated[int, Range(above=0, most=16_384)]  # a square float32 matrix of width 16,384 takes 1 GB
Memory = Annotated[int, Range(above=0, most=2**31), Mark.MACHINE]  # items computed at once; no effect on results


class EnvArgs(TypedDict):
    """Arguments of environments that need marks. The environment's yaml gives the types of all others."""

    map_name: Annotated[Name | Names, Mark.LABEL, Mark.NAME]
    key: Annotated[str | None, TASK, Mark.LABEL]
    seed: Annotated[int, Mark.LABEL]
    time_limit: Annotated[Any, Range(above=0, most=100_000)]
    difficulty: Name
    game_version: Name | None
    map_file: Annotated[str | None, Mark.PATH, Withheld(None, needed=True), Mark.RESUMABLE]
    pretrained_wrapper: Annotated[str | None, Withheld(None, needed=True)]
    replay_dir: Annotated[str, Mark.PATH, Withheld(""), Mark.MACHINE]
    replay_prefix: Annotated[str, Withheld(""), Mark.MACHINE]
    save_replay_prefix: Annotated[str, Mark.LABEL]
    debug: Annotated[bool, Mark.RESUMABLE]


class Imitate(TypedDict):
    teacher: Annotated[str, Mark.PATH, Withheld(""), Mark.RESUMABLE]
    battles: Count
    held_out: Count
    rounds: Count
    epochs: Count
    minibatch: Count
    loss: Annotated[Name, Choice("kl", "ce")]
    lr: Positive
    head_lr: Positive
    critic_lr: Positive


class Layout(TypedDict):
    probes: Annotated[bool, Mark.MACHINE]
    description: Annotated[str, Withheld("", needed=True), _never(_is("gymma"), "env")]
    aligned_enemy_types: Annotated[bool, _never(_is("sc2"), "env")]


class LanguageModel(TypedDict):
    model: Annotated[str, MODELS]
    pretrained: bool
    train: Annotated[Name, Choice("lora", "full")]
    num_layers: Size | None
    dtype: Annotated[Name, Choice("auto", "float32", "bfloat16"), Mark.RESUMABLE]
    quantization: Annotated[Name, Choice("none", "8bit", "4bit")]
    token_budget: Memory | None
    share_prefix: Annotated[bool, Mark.MACHINE]
    recompute: Annotated[bool, Mark.MACHINE]
    frozen_cache_gb: Annotated[float, Range(least=0, most=1_000_000), Mark.MACHINE]
    keep_rollout_states: Annotated[bool, Mark.MACHINE]
    read_positions: Annotated[bool, Mark.MACHINE]
    compile: Annotated[bool, Mark.MACHINE]


class Lora(TypedDict):
    layers: Size | None
    rank: Size
    alpha: PositiveWhole
    optim_eps: Positive | None
    targets: Name | Names


class Prompt(TypedDict):
    style: Annotated[Name, Choice(*registry.PROMPT_STYLES)]
    source: Annotated[Name | None, Choice("written", "auto")]
    chat: bool
    dynamic: bool


class Head(TypedDict):
    features: Annotated[Name, Choice("raw", "normalised")]
    read: Annotated[Name, Choice("last", "mean")]
    attack_keys: Annotated[Name, Choice("shared", "entity")]
    keys: Annotated[Name, Choice("random", "words")]
    word_scale: Annotated[Positive, ReadIf(("head.keys",), _is("words"))]
    init_std: NotNegative


class Kl(TypedDict):
    enabled: bool
    direction: Annotated[Name, Choice("forward", "reverse")]
    anneal_steps: PositiveWhole
    eps: Positive
    balance_steps: PositiveWhole
    reference: Annotated[Name, Choice("pretrained", "source")]
    head: Annotated[Name, Choice("current", "initial")]
    coef_max: NotNegative


class Entity(TypedDict):
    role_flag: bool
    further_fields: Names
    mask_absent: bool
    heal_mode: Annotated[Name, Choice("ally_tokens", "ignore")]
    init_gain: Positive | None
    legacy_type_bug: bool


class Updet(TypedDict):
    head_width: Size
    heads: Size
    depth: Size
    ff_mult: Size
    feature_width: Size
    attention_bias: bool
    wide_heads: bool
    recurrent_token: bool


class AsnAttention(TypedDict):
    head_width: Size
    heads: Size
    feature_width: Size
    combine: Annotated[Name, Choice("hadamard", "inner")]
    layer_norm: bool
    recurrent: bool


class Dt2gs(TypedDict):
    head_width: Size
    heads: Size
    ff_mult: Size
    feature_width: Size
    subtasks: Size
    latent: Size
    fuse_relu: bool
    temperature: Positive
    noise_mode: Annotated[Name, Choice("stored", "frozen", "redraw")]
    reconstruction_coef: NotNegative
    subtask_kl_coef: NotNegative


class Gru(TypedDict):
    width: Size


class Critic(TypedDict):
    width: Annotated[Size, _never(_is("transformer_critic", "mlp_critic"), "critic_type")]
    layers: Annotated[Size, _never(_is("transformer_critic"), "critic_type")]
    heads: Annotated[Size, _never(_is("transformer_critic"), "critic_type")]


class Configuration(TypedDict):
    """A run's configuration: EPyMARL's keys, ours, and the sections."""

    # What runs
    name: Annotated[Name, Mark.LABEL]
    runner: Annotated[Name, Choice("episode", "parallel", *registry.ENTRIES["runner"])]
    mac: Name
    env: Annotated[Name, Mark.LABEL]
    env_args: EnvArgs
    map_weights: Annotated[list | None, ReadIf(("env_args.map_name",), lambda given: isinstance(given, list))]
    agent: Name
    learner: Name
    critic_type: Annotated[Name, Choice(*registry.ENTRIES["critic"])]
    action_selector: Annotated[Name, Choice("keyed")]
    agent_output_type: Annotated[Name, Choice("pi_logits")]
    preset: Annotated[Name | None, Mark.LABEL]
    learner_preset: Annotated[Name | None, Mark.LABEL]
    seed: Annotated[int, Range(least=0, most=2**32 - 1), Mark.LABEL]
    common_reward: bool
    reward_scalarisation: Annotated[Name, _never(lambda runner: runner != "vector", "runner")]

    # How much, and when it is measured
    batch_size_run: Count
    batch_size: Count | None
    buffer_size: Count | None
    t_max: Annotated[Interval, PPO, Mark.RESUMABLE]
    test_nepisode: Annotated[Count, Mark.MACHINE]
    test_interval: Annotated[PositiveWhole, PPO, Mark.MACHINE]
    test_greedy: bool
    greedy_rule: Annotated[Name, Choice("argmax", "grouped"), ReadIf(("test_greedy",), bool)]
    test_maps: Annotated[Names, Mark.LABEL]  # adds separate series
    test_maps_nepisode: Annotated[Count | None, HELD_OUT, Mark.MACHINE]
    test_maps_between: Annotated[int | None, Range(least=0, most=1_000_000), HELD_OUT, Mark.MACHINE]
    test_sampled: Annotated[bool, ReadIf(("test_greedy",), bool), Mark.LABEL]  # adds separate series
    log_interval: Annotated[Interval, Mark.MACHINE]
    runner_log_interval: Annotated[Interval, Mark.MACHINE]
    learner_log_interval: Annotated[Interval, Mark.MACHINE]
    keep_battles: Annotated[int, Range(least=0, most=1000), Mark.MACHINE]
    decisions_file: Annotated[str, Mark.PATH, Withheld(""), Mark.MACHINE]
    evaluate: Annotated[bool, Mark.MACHINE]
    render: Annotated[bool, SINGLE_ENVS, Withheld(False), Mark.MACHINE]
    save_replay: Annotated[bool, Mark.MACHINE]

    # The machine
    use_cuda: Annotated[bool, Mark.MACHINE]
    buffer_cpu_only: Annotated[bool, Mark.MACHINE]
    torch_threads: Annotated[int | None, Range(above=0, most=4096), Mark.MACHINE]
    worker_timeout: Annotated[float, Range(above=0, most=1_000_000), SUPERVISED, Mark.MACHINE]  # seconds
    worker_restarts: Annotated[int, Range(least=0), SUPERVISED, Mark.MACHINE]
    microbatch: Memory

    # Records and checkpoints
    local_results_path: Annotated[str, Mark.PATH, Withheld("results"), Mark.MACHINE]
    mongo: Annotated[str, Withheld(""), Mark.MACHINE]
    use_tensorboard: Annotated[bool, Mark.MACHINE]
    use_wandb: Annotated[bool, Withheld(False), Mark.MACHINE]
    use_trackio: Annotated[bool, Withheld(False), Mark.MACHINE]
    wandb_team: Annotated[str | None, Withheld(None), WANDB, Mark.MACHINE]
    wandb_project: Annotated[str | None, Withheld(None), WANDB, Mark.MACHINE]
    wandb_mode: Annotated[str, Withheld("offline"), WANDB, Mark.MACHINE]
    wandb_save_model: Annotated[bool, Withheld(False), WANDB, Mark.MACHINE]
    repeat_id: Annotated[int, Mark.LABEL]
    label: Annotated[Name, Mark.LABEL]
    hypergroup: Annotated[Name | None, Mark.LABEL]
    save_model: Annotated[bool, Mark.MACHINE]
    save_model_interval: Annotated[Interval, SAVING, Mark.MACHINE]
    keep_checkpoints: Annotated[Count | None, SAVING, Mark.MACHINE]
    on_save_error: Annotated[Name, Choice("warn", "stop"), SAVING, Mark.MACHINE]
    checkpoint_path: Annotated[str, Mark.PATH, Mark.RECORDED, Mark.LABEL]
    transfer_from: Annotated[str, Mark.PATH, Mark.RECORDED, Mark.LABEL]
    transfer_critic: Annotated[bool, ReadIf(("transfer_from",), bool)]
    load_step: Annotated[Interval, LOADING, Mark.MACHINE]
    strict: Annotated[bool, LOADING, Mark.MACHINE]

    # The learner
    lr: Annotated[Positive, PPO]
    head_lr: Annotated[Positive, LLM, PPO]
    critic_lr: Annotated[Positive, PPO]
    lr_decay: Annotated[bool, PPO]
    optim_alpha: Annotated[float, _unread("learner", "Adam, which learner=mappo_learner uses, has no alpha")]
    optim_eps: Positive
    grad_norm_clip: PositiveWhole
    clip_per_group: Annotated[bool, LLM, PPO]
    gamma: Fraction
    gae_lambda: Annotated[Fraction, PPO]
    epochs: Annotated[Count, PPO]
    minibatches: Annotated[Count, PPO]
    critic_minibatches: Annotated[Count, PPO]
    normalise_advantages: Annotated[bool, PPO]
    advantage_floor: Annotated[NotNegative, ReadIf(("normalise_advantages",), bool), PPO]
    normalise_values: bool
    mask_dead: Annotated[bool, PPO]
    clip_values: Annotated[bool, PPO]
    value_clip: Annotated[Positive, ReadIf(("clip_values",), bool), PPO]
    huber_delta: Positive
    bootstrap_time_limit: Annotated[bool | None, PPO]
    eps_clip: Annotated[Positive, PPO]
    entropy_coef: Annotated[NotNegative, PPO]
    entropy_coef_end: Annotated[NotNegative | None, PPO]
    entropy_target: Annotated[NotNegative | None, PPO]
    entropy_target_end: Annotated[NotNegative | None, PPO]
    target_kl: Annotated[Positive | None, PPO]
    add_value_last_step: Annotated[bool, _unread("learner")]

    # The policy's and critic's inputs and networks
    hidden_dim: Annotated[int, _unread("agent")]  # widths are in the sections: gru.width, updet.head_width
    obs_agent_id: Annotated[bool, NOT_LLM]
    obs_last_action: Annotated[bool, NOT_LLM]
    layout: Layout
    llm: Annotated[LanguageModel, LLM]
    lora: Annotated[Lora, LLM, ReadIf(("llm.train",), _is("lora"))]
    prompt: Annotated[Prompt, LLM]
    head: Annotated[Head, LLM]
    kl: Annotated[Kl, LLM, ReadIf(("kl.enabled",), bool), PPO]
    entity: Annotated[Entity, TRUNK]
    updet: Updet
    asn_attention: AsnAttention
    dt2gs: Dt2gs
    gru: Annotated[Gru, _never(_is("gru"), "agent")]
    critic: Critic
    imitate: Annotated[Imitate, IMITATION]

    # Keys of EPyMARL's own algorithms whose yaml files do not give the type
    mixer: Name | None
    target_update_interval_or_tau: int | float


FIELDS: dict[str, Field] = {field.key: field for field in fields_of(Configuration)}


def with_mark(mark: Mark) -> frozenset[str]:
    """Return the keys that have this mark."""
    return frozenset(key for key, field in FIELDS.items() if mark in field.marks)


def field_of(key: str, like: Any = None) -> Field:
    """Return a key's field. If the schema gives no type, it is the type of ``like``, the value in the yaml."""
    field = FIELDS.get(key, Field(key, ()))
    if field.types or like is None or isinstance(like, list):
        return field
    return Field(key, (type(like),), field.marks)
