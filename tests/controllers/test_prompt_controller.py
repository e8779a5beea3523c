"""PromptMAC: the decisions that its language model evaluates, and its answers to host and learner."""

import pytest
import torch

from lolm_plugin.controllers import prompt_controller
from lolm_plugin.controllers.prompt_controller import PromptMAC
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import masked_log_softmax
from tests.learners.compare import probabilities
from tests.llm.settings import encode


@pytest.fixture
def mac(new_learner, tiny_args):
    return new_learner(tiny_args()).mac


def valid(batch):
    return (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0


def deciding(batch):
    """Return a mask [batch, time, agents] of the agent-steps with a choice, before each episode's last observation."""
    return (batch["avail_actions"][:, :-1].sum(-1) > 1) & valid(batch).unsqueeze(-1)


def test_only_agent_steps_with_a_choice_reach_the_language_model(mac, play):
    batch = play(mac, lengths=(4, 2, 3))
    assert mac.agent.pop_usage()["prompts"] == deciding(batch).sum() == 12
    steps = mac.decisions(batch, valid(batch))
    assert len(steps) == 12
    assert torch.equal(torch.stack(steps.index, -1), deciding(batch).nonzero())
    mac.reference_states(steps)
    assert mac.agent.pop_usage()["prompts"] == 12


def test_a_dead_agent_takes_no_op_with_probability_1(mac, play):
    batch = play(mac)
    dead = (batch["avail_actions"][:, :-1].sum(-1) == 1) & valid(batch).unsqueeze(-1)
    assert dead.sum() == 6
    assert not batch["actions"][:, :-1].squeeze(-1)[dead].any()
    assert not batch["behaviour_log_probs"][:, :-1][dead].any()


def test_padding_gets_action_0_with_log_probability_0(mac, play):
    batch = play(mac)
    padding = ~valid(batch)
    assert padding.sum() == 3
    assert not batch["actions"][:, :-1][padding].any()
    assert batch["behaviour_log_probs"][:, :-1][padding].squeeze(-1).tolist() == [[0, 0]] * 3


def test_without_valid_steps_there_are_no_decisions(mac, play):
    batch = play(mac)
    nothing = torch.zeros_like(valid(batch))
    assert len(mac.decisions(batch, nothing)) == 0


def test_probabilities_sum_to_1_over_available_actions(mac, play):
    batch = play(mac)
    chances = probabilities(mac, batch, 1)
    available = batch["avail_actions"][:, 1] > 0
    assert chances.shape == available.shape == (3, 2, 8)
    assert torch.allclose(chances.sum(-1), torch.ones(3, 2))
    assert not chances[~available].any()
    assert (chances[available] > 0).all()
    assert chances[:, 1].tolist() == [[1] + [0] * 7] * 3  # dead


def test_actions_are_returned_for_the_running_episodes_in_order(mac, play):
    batch = play(mac)
    everyone = mac.select_actions(batch, t_ep=0, t_env=5)
    mac.action_selector = type(mac.action_selector)(mac.args)
    assert torch.equal(mac.select_actions(batch, t_ep=0, t_env=5, bs=[0, 2]), everyone[[0, 2]])


def test_behaviour_log_probabilities_are_of_the_actions_taken(mac, play):
    batch = play(mac)
    steps = mac.decisions(batch, valid(batch))
    rows = torch.arange(len(steps))
    with torch.no_grad():
        log_policy = masked_log_softmax(mac.evaluate(steps, rows).logits, steps.available)
    actions = batch["actions"][:, :-1].squeeze(-1)[steps.index]
    expected = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(batch["behaviour_log_probs"][:, :-1].squeeze(-1)[steps.index], expected, atol=1e-5)


def test_a_test_does_not_change_the_training_record(mac, play):
    batch = play(mac)
    before = batch["behaviour_log_probs"].clone()
    mac.select_actions(batch, t_ep=0, t_env=9, test_mode=True)
    assert torch.equal(batch["behaviour_log_probs"], before)


def test_a_replayed_episode_overwrites_only_its_own_record(mac, play):
    batch = play(mac, lengths=(4, 2, 3))
    before = batch["behaviour_log_probs"].clone()
    for t in range(2):
        mac.select_actions(batch, t_ep=t, t_env=0, bs=[2])
    after = batch["behaviour_log_probs"]
    assert torch.equal(after[:2], before[:2])
    assert torch.equal(after[2, 2:], before[2, 2:])
    assert not torch.equal(after[2, :2], before[2, :2])


def test_fields_of_another_policy_are_not_written(mac, play):
    """A teacher writes into the student's batch, which may lack its fields or have others of another width."""
    batch = play(mac)
    batch.scheme["behaviour_log_probs"] = {"vshape": (3,), "group": "agents"}
    before = batch["behaviour_log_probs"].clone()
    mac.select_actions(batch, t_ep=0, t_env=9)
    assert torch.equal(batch["behaviour_log_probs"], before)
    del batch.scheme["behaviour_log_probs"], batch.data.transition_data["behaviour_log_probs"]
    mac.select_actions(batch, t_ep=0, t_env=9)


def test_microbatches_have_each_decision_once(new_learner, tiny_args, play):
    mac = new_learner(tiny_args({"llm.token_budget": 200})).mac
    batch = play(mac)
    steps = mac.decisions(batch, valid(batch))
    rows = torch.tensor([7, 0, 3, 5, 4, 11])
    groups = mac.microbatches(steps, rows)
    assert len(groups) > 1
    assert sorted(torch.cat(groups).tolist()) == sorted(rows.tolist())


def test_the_initial_policy_equals_its_reference(mac, play):
    batch = play(mac)
    steps = mac.decisions(batch, valid(batch))
    with torch.no_grad():
        logits = mac.evaluate(steps, torch.arange(len(steps))).logits
    assert torch.allclose(mac.reference_logits(mac.reference_states(steps)), logits, atol=1e-5)


def test_the_reference_uses_the_current_head_without_gradient(mac, play):
    batch = play(mac)
    steps = mac.decisions(batch, valid(batch))
    hidden = mac.reference_states(steps)
    before = mac.reference_logits(hidden)
    with torch.no_grad():
        mac.agent.head.base += 1
    assert not torch.allclose(mac.reference_logits(hidden), before)
    assert not mac.reference_logits(hidden).requires_grad


def test_logits_depend_on_all_trained_parameters(mac, play):
    steps_of = play(mac)
    steps = mac.decisions(steps_of, valid(steps_of))
    mac.evaluate(steps, torch.arange(3)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in mac.parameters())
    assert all(parameter.requires_grad for parameter in mac.parameters())


def test_the_adapter_and_the_head_are_trained(mac):
    names = [name for name, parameter in mac.agent.named_parameters() if parameter.requires_grad]
    assert len(names) == len(mac.parameters())
    assert all("lora_" in name or name.startswith("head.") for name in names)


def test_equal_prompts_are_read_once_and_get_the_same_logits_and_gradient(mac, play):
    batch = play(mac)
    for name in ("obs", "avail_actions"):
        batch[name][1:, 0, 0] = batch[name][0, 0, 0]
    steps = mac.decisions(batch, valid(batch))
    twins = ((steps.index[1] == 0) & (steps.index[2] == 0)).nonzero().flatten()
    assert len(twins) == 3
    assert (len(steps), len(steps.prompts)) == (12, 10)
    mac.agent.pop_usage()
    together = mac.evaluate(steps, torch.arange(12)).logits
    assert mac.agent.pop_usage()["prompts"] == 10
    apart = torch.cat([mac.evaluate(steps, torch.tensor([row])).logits for row in range(12)])
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.equal(together[twins], together[twins[:1]].expand(3, -1))
    weights = torch.arange(12.0).unsqueeze(1)
    read = mac.reference_states(steps)
    hidden = read.last_states
    gradients = [torch.autograd.grad((weights * x).sum(), mac.agent.head.attack) for x in (together, apart)]
    assert torch.allclose(gradients[0][0], gradients[1][0], rtol=1e-4)
    assert torch.allclose(hidden[twins], hidden[twins[:1]].expand(3, -1))


def test_each_prompt_is_written_for_its_agent(mac, play):
    batch = play(mac)
    prompter = mac.agent.prompter
    steps = mac.decisions(batch, valid(batch))
    for row in range(len(steps)):
        episode, t, agent = (index[row] for index in steps.index)
        obs, available = batch["obs"][episode, t, agent], batch["avail_actions"][episode, t, agent]
        assert prompter.encode(obs[None], available[None], agent[None]) == [
            steps.prompts.ids[steps.prompt_ids[row]].tolist()
        ]


def test_a_scheme_of_another_size_is_refused(tiny_args):
    scheme = {"obs": {"vshape": 50}, "state": {"vshape": 41}}
    with pytest.raises(ConfigError, match=r"The state of env=smax map_name=2m_vs_2z has size 41"):
        PromptMAC(scheme, {"agents": 2}, tiny_args())


def test_prompts_that_cannot_fit_are_refused_before_the_model_is_loaded(tiny_args, new_learner, monkeypatch):
    monkeypatch.setattr(prompt_controller, "Backbone", None)
    with pytest.raises(ConfigError, match=r"A prompt on map_name=27m_vs_30z can have \d+ tokens"):
        new_learner(tiny_args({"prompt.style": "paper"}, n_agents=27, n_enemies=30))


def test_a_targets_key_is_the_state_at_the_end_of_its_sentence(new_learner, tiny_args, play):
    """The key equals the last state of the prompt cut after the sentence."""
    mac = new_learner(tiny_args({"head.attack_keys": "entity"}, n_enemies=3)).mac
    steps = mac.decisions(batch := play(mac), valid(batch))
    states, prompts, found = mac.reference_states(steps), steps.prompts, 0
    for row in range(len(steps)):
        ids, (read,) = prompts.ids[steps.prompt_ids[row]].tolist(), states.targets[row : row + 1].tolist()
        text = mac.agent.prompter.tokenizer.decode(ids)
        for target, place in enumerate(read):
            sentence = next((line for line in text.splitlines() if line.startswith(f"enemy {target}:")), None)
            assert (place >= 0) == (sentence is not None and bool(steps.available[row, 6 + target]))
            if place >= 0:
                cut = text[: text.index(sentence) + len(sentence) + 1]
                own = mac.agent.prompter.count_tokens([cut])[0]
                (expected,) = encode(mac.agent.backbone, prompts.prefix, [ids[:own]], reference=True)
                torch.testing.assert_close(states.states[place], expected, atol=1e-5, rtol=0)
                found += 1
        (expected,) = encode(mac.agent.backbone, prompts.prefix, [ids], reference=True)
        torch.testing.assert_close(states.last_states[row], expected, atol=1e-5, rtol=0)
    assert found > 5


@pytest.mark.parametrize("keep", [True, False])
def test_frozen_layers_run_once_for_play_update_and_reference(keep, new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"lora.layers": 1, "llm.keep_rollout_states": keep, "minibatches": 2}))
    backbone = learner.mac.agent.backbone
    tokens = []
    backbone.lm.get_base_model().layers[0].register_forward_pre_hook(
        lambda module, inputs: tokens.append(inputs[0].shape[1])
    )
    batch = play(learner.mac)
    played, kept = sum(tokens), backbone.encoder.stored_bytes
    assert played > 0
    assert (kept > 0) == keep
    learner.train(batch, 0, 0)
    assert (sum(tokens) == played) == keep
    assert backbone.encoder.stored_bytes == 0  # a resumed run starts without them, too


def test_a_test_caches_no_states_for_the_next_update(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"lora.layers": 1}))
    batch = play(learner.mac)
    learner.train(batch, 0, 0)
    learner.mac.select_actions(batch, t_ep=0, t_env=5, test_mode=True)
    assert learner.mac.agent.backbone.encoder.stored_bytes == 0
