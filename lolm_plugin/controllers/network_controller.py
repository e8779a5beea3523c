"""Multi-agent controller of small networks: observation vectors in, actions and logits out.

Supports policies with and without memory, and policies that draw noise (DT2GS).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Acting, Decisions, Evaluation, certain_log_probs, find_decisions
from lolm_plugin.modules.agents.policy import Policy
from lolm_plugin.modules.heads import masked_log_softmax
from lolm_plugin.modules.sharing import share_weights
from lolm_plugin.modules.trunks.trunk import network_settings
from lolm_plugin.protocols import Batch
from lolm_plugin.randomness import KeyedDraws, keyed_generator
from lolm_plugin.tensor_files import load_tensors, save_tensors


@dataclass(frozen=True)
class NetworkDecisions(Decisions):
    """Decisions of a batch, and the inputs of their whole episodes, which a policy with memory needs."""

    inputs: Tensor  # [batch, time, agents, input_size]
    noise: Tensor | None  # [batch, time, agents, noise_width]
    recurrent: bool
    t_env: int

    @property
    def group_ids(self) -> Tensor | None:
        return self.index[0] if self.recurrent else None


class NetworkMAC(Controller[NetworkDecisions]):
    """Controller with one small network for all agents. With memory, each agent has one hidden state."""

    agent: Policy

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        super().__init__(scheme, groups, args)
        build = registry.load(registry.ENTRIES["agent"][args.agent])
        self.agent = build(self.layouts.observation, args).to(self.device)
        self.recurrent = self.agent.hidden_width > 0
        if self.agent.noise_width:
            self.fields["behaviour_noise"] = {"vshape": (self.agent.noise_width,), "group": "agents"}
        self._draws = KeyedDraws(args.seed, "noise")
        self._agents = torch.arange(args.n_agents, device=self.device)
        self.init_hidden(0)

    def for_map(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> "NetworkMAC":
        other = type(self)(scheme, groups, args)
        share_weights(self.agent, other.agent)
        return other

    def init_hidden(self, batch_size: int) -> None:
        """Start new episodes: set every agent's hidden state [batch, agents, hidden_width] to zero."""
        self.hidden = self._empty_memory(batch_size, self.n_agents)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "actor", "params": list(self.agent.parameters()), "lr": self.args.lr}]

    def fingerprint(self) -> dict[str, Any]:
        return {"agent": self.args.agent, **network_settings(self.args.agent, self.args)}

    def fixed_sizes(self) -> dict[str, int]:
        """Return the sizes of the map if the network reads flat observations, else nothing."""
        if self.args.agent in registry.TRUNKS:
            return {}
        size = self.layouts.observation.size
        return {"agents": self.n_agents, "actions": self.args.n_actions, "numbers an observation": size}

    def ratio_tolerance(self) -> float:
        """Return infinity if the update draws new noise, so that the ratio differs from 1."""
        redrawn = self.agent.noise_width and self.agent.noise_mode != "stored"
        return float("inf") if redrawn else super().ratio_tolerance()

    def save_models(self, path: str) -> None:
        save_tensors(f"{path}/actor.safetensors", self.agent.state_dict())

    def load_models(self, path: str) -> None:
        self.agent.load_state_dict(load_tensors(f"{path}/actor.safetensors", expected=self.agent.state_dict()))

    @torch.no_grad()
    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        if len(self.hidden) != ep_batch.batch_size:
            self.init_hidden(ep_batch.batch_size)
        noise = self._noise_to_act(ep_batch, t, t_env, test_mode)
        log_probs, deciding = certain_log_probs(available)
        # Memory is updated for dead agents, too. Without memory only agents with a choice are evaluated.
        evaluated = torch.nonzero(running, as_tuple=True) if self.recurrent else deciding
        output = self.agent.evaluate(
            self._inputs(ep_batch, t)[evaluated],
            self.hidden[evaluated],
            self._agents if self.recurrent else evaluated[1],
            None if noise is None else noise[evaluated],
            available[evaluated],
        )

        def scatter(values: Tensor) -> Tensor:
            """Write the evaluated agents' values into [batch, agents, ...]; 0 elsewhere."""
            width = values.shape[(2 if self.recurrent else 1) :]
            result = torch.zeros(ep_batch.batch_size, self.n_agents, *width, dtype=values.dtype, device=values.device)
            result[evaluated] = values
            return result

        if self.recurrent:
            self.hidden = scatter(output.hidden)
        logits = scatter(output.logits)[deciding] if self.recurrent else output.logits
        log_probs[deciding] = masked_log_softmax(logits, available[deciding])
        return Acting(
            log_probs,
            noise,
            None if output.attention is None else scatter(output.attention),
            None if output.subtask is None else scatter(output.subtask.argmax(-1)),
        )

    def decisions(self, batch: Batch, valid: Tensor, t_env: int = 0) -> NetworkDecisions:
        index, available = find_decisions(batch, valid)
        inputs = torch.stack([self._inputs(batch, t) for t in range(valid.shape[1])], dim=1)
        noise = None
        if self.agent.noise_width and self.agent.noise_mode == "stored":
            noise = batch["behaviour_noise"][:, : valid.shape[1]]
        elif self.agent.noise_width:
            noise = self._noise(inputs.shape[:3], "update", t_env)
        return NetworkDecisions(index, available, inputs, noise, self.recurrent, t_env)

    def microbatches(self, decisions: NetworkDecisions, subset: Tensor) -> list[Tensor]:
        """Split ``subset`` [n], indices of decisions, into parts of at most ``microbatch`` decisions.

        With memory, a part holds all decisions of some episodes. A longer episode is one part.
        """
        if not self.recurrent:
            return list(subset.split(self.args.microbatch))
        episode = decisions.index[0][subset]
        at_once = max(1, self.args.microbatch // decisions.inputs[0, ..., 0].numel())
        return [subset[torch.isin(episode, part)] for part in episode.unique().split(at_once)]

    def evaluate(self, decisions: NetworkDecisions, subset: Tensor) -> Evaluation:
        """Evaluate the current policy on ``subset`` [n]. With memory, their episodes are unrolled from step 0."""
        episode, step, agent = (axis[subset] for axis in decisions.index)
        if not self.recurrent:
            inputs, memory = decisions.inputs[episode, step, agent], self._empty_memory(len(subset))
            output = self.agent.evaluate(inputs, memory, agent, available=decisions.available[subset])
            return Evaluation(output.logits, output.losses, output.stats)
        episodes, batch_index = episode.unique(return_inverse=True)
        noise = decisions.noise
        if noise is not None and self.agent.noise_mode == "redraw":
            noise = self._noise(noise.shape[:3], "redraw", decisions.t_env)
        last = int(step.max()) + 1
        inputs = decisions.inputs[episodes, :last].transpose(0, 1)
        drawn = None if noise is None else noise[episodes, :last].transpose(0, 1)
        output = self.agent.unroll(inputs, self._empty_memory(len(episodes), self.n_agents), self._agents, drawn)

        def select(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[step, batch_index, agent] for name, value in values.items()}

        return Evaluation(output.logits[step, batch_index, agent], select(output.losses), select(output.stats))

    def _empty_memory(self, *leading: int) -> Tensor:
        return torch.zeros(1, self.agent.hidden_width, device=self.device).expand(*leading, -1)

    def _inputs(self, batch: Batch, t: int) -> Tensor:
        """Return the network's inputs at timestep ``t``: [batch, agents, input_size], in the host's order."""
        inputs = [batch["obs"][:, t]]
        if self.args.obs_last_action:
            last = batch["actions_onehot"][:, t - 1] if t else torch.zeros_like(batch["actions_onehot"][:, t])
            inputs.append(last.to(inputs[0].dtype))
        if self.args.obs_agent_id:
            inputs.append(torch.eye(self.n_agents, device=inputs[0].device).expand(len(inputs[0]), -1, -1))
        return torch.cat(inputs, dim=-1) if len(inputs) > 1 else inputs[0]

    def _noise(self, shape: Sequence[int], mode: str, t_env: int) -> Tensor:
        return self.agent.noise(shape, self._draws.generator(mode, t_env)).to(self.device)

    def _noise_to_act(self, ep_batch: Batch, t: int, t_env: int, test_mode: bool) -> Tensor | None:
        """Draw noise [batch, agents, noise_width]; None for a policy without noise and in a greedy test.

        In a test the noise is keyed by episode and step, so it does not depend on how many episodes are played at once.
        """
        if not self.agent.noise_width or (test_mode and self.action_selector.test_greedy):
            return None
        if not test_mode:
            return self._noise((ep_batch.batch_size, self.n_agents), "train", t_env)
        key = (self.args.seed, "test noise", t_env)
        generators = [keyed_generator(*key, episode, t) for episode in self._test_episodes.of(ep_batch, t)]
        return torch.stack([self.agent.noise((self.n_agents,), each) for each in generators]).to(self.device)
