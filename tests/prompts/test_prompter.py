"""Token ids assembled from fragments are those of the whole text. For other tokenizers, whole texts are tokenised."""

import string

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split
from transformers import PreTrainedTokenizerFast

from lolm_plugin import registry
from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.prompter import Prompter, TokenBatch
from lolm_plugin.prompts.style import BattleWriter, build_style

ROWS = 50  # scenes of each layout, for each tokenizer, style and dynamic


def _regex(numbers):
    """Return how Qwen2 and Llama 3 split a text. They differ in the number of digits that stay together."""
    letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    signs = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = Split(Regex(f"{letters}|{numbers}|{signs}"), "isolated")
    return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS = {
    "smollm2": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    "qwen2": _regex(r"\p{N}"),
    "llama3": _regex(r"\p{N}{1,3}"),
    "gpt2": ByteLevel(add_prefix_space=False),
}
# These join the texts on both sides of a cut, or change the beginning of every text.
JOINING = {
    "nothing split": ByteLevel(add_prefix_space=False, use_regex=False),
    "split at spaces": Sequence(
        [Split(Regex(" ?[^ ]+"), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "metaspace": Metaspace(),
    "space in front": ByteLevel(add_prefix_space=True),
}


def _texts(prompter, rows, seed, random_views):
    """Return random views, and the text of each row after the prefix."""
    layout = prompter.layout
    views = (*random_views(layout, rows, seed), torch.arange(rows) % layout.n_agents)
    return views, ["".join(parts.values()) for parts in prompter.writer.describe(*views)]


@pytest.fixture(scope="module")
def trained():
    """Return tokenizers by how they split texts, with merges trained on prompts."""
    layout = build_layouts("smax", {"map_name": "3s5z_vs_3s6z"}, 8, 15).observation
    texts = []
    for style in sorted(registry.PROMPT_STYLES):
        writer = BattleWriter(layout, build_style(style), dynamic=False)
        texts += ["".join(parts.values()) for parts in writer.describe(*layout.sample(40))]

    def train(split):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = split
        alphabet = [*ByteLevel.alphabet(), "▁"]
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet))
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)

    return {name: train(split) for name, split in (SPLITS | JOINING).items()}


def _byte_tokenizer():
    """Return a tokenizer with one token per byte."""
    return _letter_tokenizer(ByteLevel.alphabet(), SPLITS["gpt2"])


def _letter_tokenizer(alphabet, split):
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(sorted(alphabet))}, merges=[]))
    if split:
        tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("style", sorted(registry.PROMPT_STYLES))
@pytest.mark.parametrize("name", SPLITS)
def test_assembled_ids_are_those_of_the_text(name, style, dynamic, layouts, random_views, trained):
    prompter = Prompter(BattleWriter(layouts.observation, build_style(style), dynamic), trained[name])
    views, texts = _texts(prompter, ROWS, 12, random_views)
    assert prompter.assembles
    assert prompter.encode(*views) == trained[name](texts)["input_ids"]


@pytest.mark.parametrize("style", sorted(registry.PROMPT_STYLES))
@pytest.mark.parametrize("name", JOINING)
def test_ids_are_those_of_the_text_if_the_tokenizer_joins_fragments(name, style, random_views, trained):
    layout = build_layouts("smax", {"map_name": "3s_vs_4z"}, 3, 10).observation
    prompter = Prompter(BattleWriter(layout, build_style(style), dynamic=True), trained[name])
    views, texts = _texts(prompter, ROWS, 12, random_views)
    assert not prompter.assembles
    assert prompter.encode(*views) == trained[name](texts)["input_ids"]


@pytest.mark.parametrize("style", sorted(registry.PROMPT_STYLES))
def test_ids_are_assembled_with_the_tokenizer_of_the_plugin(style, layouts, tiny_tokenizer):
    prompter = Prompter(BattleWriter(layouts.observation, build_style(style), dynamic=True), tiny_tokenizer)
    assert prompter.assembles
    assert prompter.whole_text_reason == ""


@pytest.mark.parametrize(
    ("name", "why"), [("nothing split", "can join words"), ("space in front", "differently from the whole text")]
)
def test_a_tokenizer_that_joins_fragments_gets_whole_texts_and_a_sentence_says_why(name, why, layouts, trained):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("paper"), dynamic=True), trained[name])
    assert not prompter.assembles
    assert why in prompter.whole_text_reason


def test_agreement_on_a_sample_is_not_enough_if_texts_are_not_split_first(layouts):
    apart = _byte_tokenizer()
    together = _letter_tokenizer(ByteLevel.alphabet(), JOINING["nothing split"])
    unsplit = _letter_tokenizer(string.printable, None)
    assembles = [
        Prompter(BattleWriter(layouts.observation, build_style("paper"), dynamic=True), tokenizer).assembles
        for tokenizer in (apart, together, unsplit)
    ]
    assert assembles == [True, False, False]


@pytest.mark.parametrize("name", ["qwen2", "metaspace"])
def test_rows_are_independent(name, layouts, random_views, trained):
    prompter = Prompter(BattleWriter(layouts.observation, build_style("paper"), dynamic=True), trained[name])
    views, texts = _texts(prompter, 10, 13, random_views)
    alone = [prompter.encode(*(column[i : i + 1] for column in views))[0] for i in range(10)]
    assert prompter.encode(*views) == alone
    rows = prompter.tokens(*views)
    assert rows.ids.dtype == rows.lengths.dtype == np.int64
    assert rows.lengths.tolist() == prompter.count_tokens(texts)
    assert rows.ids.tolist() == [token for ids in alone for token in ids]


def test_distinct_sequences_and_their_index_in_each_row():
    rows = TokenBatch.of([[1, 2], [], [1], [1, 2], [2, 1], []])
    distinct, index = rows.distinct()
    assert distinct.lists() == [[1, 2], [], [1], [2, 1]]
    assert index.tolist() == [0, 1, 2, 0, 3, 1]
    assert len(distinct) == 4


def test_an_empty_batch_has_no_distinct_sequences():
    distinct, index = TokenBatch.of([]).distinct()
    assert distinct.lists() == index.tolist() == []


def test_the_sample_has_every_kind_and_action_and_seen_and_unseen_units(layouts):
    layout = layouts.observation
    obs, available, agent = layout.sample(64)
    observed = layout.decode(obs)
    blocks = (layout.enemies, layout.allies, layout.own)
    for block, units in zip(blocks, (observed.enemies, observed.allies, observed.own), strict=True):
        assert set(units.kind.unique().tolist()) >= ({*(block.kinds or (block.only_kind,))} if block.rows else set())
    assert {True, False} == set(observed.enemies.present.unique().tolist())
    assert available.any(0).all()
    assert not available.all(0).any()
    assert set(agent.tolist()) == set(range(layout.n_agents))
