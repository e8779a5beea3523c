"""Token ids of prompts: joining prefix and sequence, lengths, and supported tokenizers."""

import re

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.units import index
from lolm_plugin.prompts.prompter import Prompter
from lolm_plugin.prompts.style import BattleWriter, build_style
from tests.prompts.plain_scene import describe, scenes

STYLES = pytest.mark.parametrize("style", sorted(registry.PROMPT_STYLES))
DYNAMIC = pytest.mark.parametrize("dynamic", [True, False])


@STYLES
@DYNAMIC
def test_prefix_and_sequence_are_the_tokens_of_the_joined_text(style, dynamic, layouts, random_views, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style(style), dynamic), tiny_tokenizer)
    obs, mask = random_views(layouts.observation, 20, seed=7)
    agents = torch.arange(20) % layouts.observation.n_agents
    style = prompter.writer.style
    seen = scenes(layouts.observation, obs, mask, agents, dynamic)
    texts = [style.instruction + style.goal + describe(style, scene).text for scene in seen]
    sequences = prompter.encode(obs, mask, agents)
    assert [prompter.prefix + ids for ids in sequences] == tiny_tokenizer(texts)["input_ids"]


@STYLES
@DYNAMIC
@pytest.mark.parametrize("unseen", [0.0, 0.3, 1.0])
def test_no_prompt_is_longer_than_max_tokens(style, dynamic, unseen, layouts, random_views, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style(style), dynamic), tiny_tokenizer)
    obs, mask = random_views(layouts.observation, 100, 8, unseen)
    agents = torch.arange(100) % layouts.observation.n_agents
    longest = max(map(len, prompter.encode(obs, mask, agents)))
    assert len(prompter.prefix) + longest <= prompter.max_tokens


@STYLES
@pytest.mark.parametrize("kind", ["marine", "zergling", "hydralisk"])
def test_no_prompt_is_longer_than_max_tokens_for_any_kind_with_most_tokens(style, kind, random_views):
    layout = build_layouts("smax", {"map_name": "27m_vs_30m"}, 27, 36).observation
    prompter = Prompter(BattleWriter(layout, build_style(style), dynamic=True), WordTokenizer(spelt=kind))
    obs, mask = random_views(layout, 3, 9, 0.0)
    for block in (layout.enemies, layout.allies, layout.own):
        rows = obs[:, block.start : block.end].unflatten(-1, (block.rows, block.width))
        rows[..., len(block.fields) :] = torch.eye(len(block.kinds))[block.kinds.index(index(kind))]
    longest = max(map(len, prompter.encode(obs, mask, torch.tensor([0, 1, 26]))))
    assert len(prompter.prefix) + longest <= prompter.max_tokens


@STYLES
def test_max_tokens_is_no_more_than_a_tenth_above_a_full_scene(style, random_views, tiny_tokenizer):
    layout = build_layouts("smax", {"map_name": "5h_vs_5h"}, 5, 11).observation
    prompter = Prompter(BattleWriter(layout, build_style(style), dynamic=True), tiny_tokenizer)
    obs, mask = random_views(layout, 200, 10, 0.0)
    longest = len(prompter.prefix) + max(map(len, prompter.encode(obs, mask, torch.arange(200) % 5)))
    # Terse leaves out usual values, and every view has some.
    assert prompter.max_tokens <= (1.4 if style == "terse" else 1.1) * longest


def test_a_prompt_that_cannot_fit_is_refused_in_one_sentence(layouts, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("paper"), dynamic=True), tiny_tokenizer)
    prompter.check_fits(prompter.max_tokens, "some-model")
    with pytest.raises(ConfigError) as error:
        prompter.check_fits(prompter.max_tokens - 1, "some-model")
    message = str(error.value)
    for part in (f"map_name={layouts.observation.map_name}", str(prompter.max_tokens), "llm.model=some-model"):
        assert part in message
    assert "prompt.style=terse" in message
    assert len(re.findall(r"\.(\s|$)", message)) == 1


def test_a_longer_style_has_longer_prompts(layouts, tiny_tokenizer):
    prompters = {
        style: Prompter(BattleWriter(layouts.observation, build_style(style), True), tiny_tokenizer)
        for style in ("paper", "compact", "terse")
    }
    paper, compact, terse = (prompter.max_tokens - len(prompter.prefix) for prompter in prompters.values())
    assert terse < compact < 0.65 * paper


class WordTokenizer:
    """A tokenizer with one token per word, digit or sign, but one per letter in the word ``spelt``."""

    bos_token_id = None

    def __init__(self, spelt):
        self.spelt = spelt

    def __call__(self, texts, add_special_tokens=True, verbose=True):
        spaced = [text.replace(self.spelt, " ".join(self.spelt)) for text in texts]
        return {"input_ids": [list(range(len(re.findall(r"\d|[A-Za-z]+|[^\w\s]", text)))) for text in spaced]}


class LetterTokenizer:
    """A tokenizer with one token per letter. With ``adds_bos``, special tokens put ``bos_token_id`` in front."""

    bos_token_id = 1

    def __init__(self, adds_bos):
        self.adds_bos = adds_bos

    def __call__(self, texts, add_special_tokens=True, verbose=True):
        if isinstance(texts, str):
            return {"input_ids": self([texts], add_special_tokens)["input_ids"][0]}
        start = [1] if self.adds_bos and add_special_tokens else []
        return {"input_ids": [start + [ord(letter) for letter in text] for text in texts]}


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_prefix_begins_with_the_begin_token_if_the_tokenizer_adds_one(adds_bos, layouts):
    style = build_style("compact")
    style.instruction, style.goal = "ab\n", "c\n"
    prompter = Prompter(BattleWriter(layouts.observation, style, dynamic=True), LetterTokenizer(adds_bos))
    assert prompter.prefix == [1] * adds_bos + [ord(letter) for letter in "ab\nc\n"]


def test_a_sequence_never_begins_with_the_begin_token(layouts, random_views):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("compact"), dynamic=True), LetterTokenizer(True))
    obs, mask = random_views(layouts.observation, 1, seed=0)
    assert prompter.encode(obs, mask, torch.zeros(1, dtype=torch.long))[0][:3] == [ord(letter) for letter in "You"]


def test_no_rows_are_no_sequences(layouts, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("compact"), dynamic=True), tiny_tokenizer)
    obs, mask = torch.zeros(0, layouts.observation.size), torch.zeros(0, layouts.observation.n_actions)
    assert prompter.encode(obs, mask, torch.zeros(0, dtype=torch.long)) == []


def test_tokens_are_counted_text_by_text(layouts, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("compact"), dynamic=True), tiny_tokenizer)
    texts = ["", "You", "You are a marine."]
    assert prompter.count_tokens(texts) == [len(tiny_tokenizer(text)["input_ids"]) for text in texts]
