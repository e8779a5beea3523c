"""``prompt.chat``: ids are those of the tokenizer's chat template, then the cue; unsuitable templates are refused."""

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lolm_plugin import registry
from lolm_plugin.controllers.prompter import build_writer
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.chat import ChatWriter
from lolm_plugin.prompts.prompter import Prompter

TURN = "{% for message in messages %}<eos>{{ message['role'] }}\n{{ message['content'] CONTENT }}<eos>\n{% endfor %}"
PLAIN = f"<bos>{TURN}{{% if add_generation_prompt %}}<eos>assistant\n{{% endif %}}"
TEMPLATES = {
    "with its own begin token": PLAIN.replace("CONTENT", ""),
    "that strips the turn": PLAIN.replace("CONTENT", "| trim"),
    "that thinks unless this is off": PLAIN.replace("CONTENT", "").replace(
        "assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    ),
    "without special tokens": "[{{ messages[0]['role'] }}] {{ messages[0]['content'] }} [answer]",
}
LAYOUTS = {"smax": ("3s_vs_4z", 3, 10), "sc2": ("MMM2", 10, 18)}


@pytest.fixture
def chatting(tiny_tokenizer):
    """Return a function: the tiny tokenizer with a given chat template. It adds a begin token to other texts."""

    def make(template):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
        assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        return tokenizer

    return make


def layout_of(env):
    map_name, agents, actions = LAYOUTS[env]
    return build_layouts(env, {"map_name": map_name}, agents, actions).observation


def writer_of(style, source=None, env="smax"):
    return build_writer({"style": style, "source": source, "dynamic": True}, layout_of(env))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("source", ["written", "auto"])
@pytest.mark.parametrize("style", sorted(registry.PROMPT_STYLES))
def test_the_ids_are_those_of_the_chat_template_and_the_cue(style, source, template, chatting, random_views):
    tokenizer, plain = chatting(TEMPLATES[template]), writer_of(style, source)
    prompter = Prompter(ChatWriter(plain, tokenizer, "some-model"), tokenizer)
    obs, mask = random_views(layout_of("smax"), 40, 31, 0.5)
    views = obs, mask, torch.arange(40) % plain.layout.n_agents
    if template != "without special tokens":
        assert prompter.assembles, prompter.whole_text_reason
    for own, parts in zip(prompter.encode(*views), plain.describe(*views), strict=True):
        *said, cue = parts.values()
        content = (plain.prefix + "".join(said)).removesuffix("\n")
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert prompter.prefix + own == tokenizer(text + cue, add_special_tokens=False)["input_ids"]
        assert prompter.prefix.count(tokenizer.bos_token_id) == template.startswith(("with its", "that"))
    longest = max(len(own) for own in prompter.encode(*views))
    assert len(prompter.prefix) + longest <= prompter.max_tokens


def test_the_longest_prompt_includes_the_template(chatting):
    tokenizer, plain = chatting(TEMPLATES["with its own begin token"]), writer_of("terse")
    chat = Prompter(ChatWriter(plain, tokenizer, "some-model"), tokenizer)
    assert chat.max_tokens > Prompter(plain, tokenizer).max_tokens
    assert all("<eos>assistant\nBest:" in text for text in chat.writer.fullest())


def test_described_prompts_are_those_that_the_model_reads(chatting, random_views):
    tokenizer, plain = chatting(TEMPLATES["with its own begin token"]), writer_of("terse")
    prompter = Prompter(ChatWriter(plain, tokenizer, "some-model"), tokenizer)
    obs, mask = random_views(plain.layout, 5, 32, 0.3)
    views = obs, mask, torch.zeros(5, dtype=torch.int64)
    for own, parts in zip(prompter.encode(*views), prompter.writer.describe(*views), strict=True):
        text = "".join(parts.values())
        assert tokenizer(prompter.writer.prefix + text, add_special_tokens=False)["input_ids"] == (
            prompter.prefix + own
        )
        said, *template = text.split("<eos>")
        assert not said.endswith("\n")
        assert template == ["\n", "assistant\nBest:"]


def test_a_target_on_the_last_line_ends_before_the_templates_text(chatting, random_views):
    tokenizer, plain = chatting(TEMPLATES["with its own begin token"]), writer_of("terse", env="sc2")
    prompter = Prompter(ChatWriter(plain, tokenizer, "some-model"), tokenizer)
    obs, mask = random_views(plain.layout, 60, 33, 0.3)
    mask[:, 1:6] = 1  # so that no line about actions follows
    rows = prompter.tokens(obs, mask, torch.full((60,), 2), targets=True)
    ends = [(ids, max(at)) for ids, at in zip(rows.lists(), rows.targets.tolist(), strict=True) if max(at) >= 0]
    lines = [
        tokenizer.decode(ids[: end + 1]).split("\n")[-1 - tokenizer.decode(ids[end]).endswith("\n")]
        for ids, end in ends
    ]
    assert len(lines) > 20
    assert all(line.endswith(" in range") for line in lines)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        ("Hello", "repeats a user's turn 0 times"),
        (2 * TEMPLATES["that strips the turn"], "repeats a user's turn 2 times"),
        ("{{ raise_exception('a system message is missing') }}", "refuses a single user's turn"),
    ],
)
def test_an_unsuitable_template_is_refused_in_one_sentence(template, why, chatting):
    with pytest.raises(
        ConfigError, match=rf"^prompt\.chat=True .*llm\.model=some-model.*{why}.*set prompt\.chat=False"
    ):
        ChatWriter(writer_of("terse"), chatting(template), "some-model")
