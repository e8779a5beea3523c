"""``head.read=mean``: half the mean state of a prompt, from below the trained layers, is added to its first state."""

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.model import MEAN_SHARE, Backbone
from lolm_plugin.llm.sources import TINY
from lolm_plugin.modules.agents.llm_agent import LLMAgent
from tests.llm.settings import LLM, LORA, with_random_adapter

PREFIX = (5, 6, 7)
PROMPTS = [[3 + (7 * row + 11 * i) % 450 for i in range(n)] for row, n in enumerate((40, 3, 17, 1, 40))]
READS = [torch.tensor([len(prompt) - 1, *range(0, len(prompt) - 1, 9)]) for prompt in PROMPTS]


def make(model, layers, **llm):
    return with_random_adapter(Backbone({**LLM, "model": model, **llm}, {**LORA, "layers": layers}, seed=0))


def by_hand(backbone, frozen_layers):
    """Compute the states with plain transformers, one whole prompt at a time."""
    states = []
    for prompt, reads in zip(PROMPTS, READS, strict=True):
        out = backbone.lm(input_ids=torch.tensor([[*PREFIX, *prompt]]), output_hidden_states=True)
        own = out.hidden_states[frozen_layers][0, len(PREFIX) :].detach()
        of_prompt = out.last_hidden_state[0, len(PREFIX) + reads]
        mean = MEAN_SHARE * backbone.lm.get_base_model().norm(own.mean(0))
        states += [of_prompt[0] + mean.detach(), *of_prompt[1:]]
    return torch.stack(states)


def gradients(backbone, states):
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())


@pytest.mark.parametrize(("layers", "frozen"), [(1, 1), (None, 0)])
@pytest.mark.parametrize("model", TINY)
def test_values_and_gradients(model, layers, frozen):
    backbone = make(model, layers)
    expected = by_hand(backbone, frozen)
    batch = backbone.prompt_batch(PREFIX, PROMPTS, READS)
    plain = backbone.encode(batch)
    for stored in (batch, backbone.precompute_frozen_layers(batch, 2**30)):
        for budget in (None, 30):
            states = backbone.encode(stored, token_budget=budget, add_mean=True)
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    first = torch.tensor([0, *torch.tensor([len(reads) for reads in READS]).cumsum(0)[:-1].tolist()])
    changed = (states - plain).abs().amax(-1) > 1e-3
    assert changed.nonzero().flatten().tolist() == first.tolist()
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_the_reference_has_the_same_mean():
    backbone = make("tiny-llama", 1)
    batch = backbone.prompt_batch(PREFIX, PROMPTS, READS)
    means = [
        backbone.encode(batch, reference, add_mean=True) - backbone.encode(batch, reference) for reference in (0, 1)
    ]
    torch.testing.assert_close(*means, atol=1e-6, rtol=0)


def test_a_padded_model_is_refused(tiny_args, new_learner, monkeypatch):
    agent = new_learner(tiny_args()).mac.agent
    monkeypatch.setattr(agent.backbone.encoder, "packed", False, raising=False)
    head = {**vars(tiny_args())["head"], "read": "mean"}
    with pytest.raises(ConfigError, match=r"head\.read=mean needs the states of a packed model.*set head\.read=last"):
        LLMAgent(agent.prompter, agent.backbone, head, seed=0)
