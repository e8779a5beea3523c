"""The multi-agent controller of small networks: observation vectors in, actions and logits out.

Serves policies with and without memory, and policies that draw noise of their own (DT2GS).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.controllers.controller import Acting, Controller, Evaluation, certain_log_probs, decisions
from lolm_plugin.modules.agents.policy import PolicyOutput
from lolm_plugin.modules.masked_policy import masked_log_softmax
from lolm_plugin.modules.network_settings import network_settings
from lolm_plugin.randomness import KeyedDraws, keyed_generator
from lolm_plugin.tensor_files import load_tensors, save_tensors


@dataclass(frozen=True)
class NetworkSteps:
    """The decisions of a batch (see ``AgentSteps``) and the whole episodes, which a policy with memory reads."""

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [rows]
    available: Tensor  # bool [rows, n_actions]
    inputs: Tensor  # [batch, time, agents, input_size]
    noise: Tensor | None  # [batch, time, agents, noise_width]
    together: Tensor | None
    t_env: int

    def __len__(self) -> int:
        return len(self.available)


class NetworkMAC(Controller):
    """Shares one small network between all agents; with memory, one hidden state an agent."""

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        super().__init__(scheme, groups, args)
        build = registry.load(registry.ENTRIES["agent"][args.agent])
        self.agent = build(self.layouts.observation, args).to(self.device)
        self.recurrent = self.agent.hidden_width > 0
        self.hidden: Tensor | None = None  # [batch, agents, hidden_width]
        # What the policy drew in the last training rollout, [batch, time, agents, noise_width].
        self.played_noise: Tensor | None = None
        self._draws = KeyedDraws(args.seed, "noise")
        self._agents = torch.arange(args.n_agents, device=self.device)

    def init_hidden(self, batch_size: int) -> None:
        """New episodes begin: every agent's memory is empty."""
        self.hidden = self.agent.init_hidden().expand(batch_size, self.n_agents, -1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All of the network."""
        return [{"name": "actor", "params": list(self.agent.parameters()), "lr": self.args.lr}]

    def fingerprint(self) -> dict[str, Any]:
        """Which network in which form."""
        return {"agent": self.args.agent, **network_settings(self.args.agent, self.args)}

    def map_bound(self) -> dict[str, int]:
        """The sizes of the map, if the network reads flat observations."""
        if self.args.agent in registry.TRUNKS:
            return {}
        size = self.layouts.observation.size
        return {"agents": self.n_agents, "actions": self.args.n_actions, "numbers an observation": size}

    def ratio_tolerance(self) -> float:
        """Infinity where the policy learns with other draws than it played with."""
        redrawn = self.agent.noise_width and self.agent.noise_mode != "stored"
        return float("inf") if redrawn else super().ratio_tolerance()

    def save_models(self, path: str) -> None:
        """The network's weights."""
        save_tensors(f"{path}/actor.safetensors", self.agent.state_dict())

    def load_models(self, path: str) -> None:
        """Load strictly what ``save_models`` wrote; a missing or unexpected tensor is a ConfigError."""
        self.agent.load_state_dict(load_tensors(f"{path}/actor.safetensors", expected=self.agent.state_dict()))

    @torch.no_grad()
    def act(self, ep_batch: Any, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """The policy at timestep ``t`` of the episodes ``running``; in the others action 0 is certain."""
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        if self.hidden is None or len(self.hidden) != ep_batch.batch_size:
            self.init_hidden(ep_batch.batch_size)
        noise = None
        if self.agent.noise_width and not test_mode:
            noise = self._noise((ep_batch.batch_size, self.n_agents), "train", t_env)
            self._remember_noise(noise, t, ep_batch.max_seq_length, running)
        elif self.agent.noise_width and not self.action_selector.test_greedy:
            noise = self._test_noise(ep_batch, t, t_env)
        log_probs, deciding = certain_log_probs(available)
        # Memory goes on in the dead, too; without it only those are asked who have a choice.
        where = torch.nonzero(running, as_tuple=True) if self.recurrent else deciding
        output: PolicyOutput = self.agent.evaluate(
            self._inputs(ep_batch, t)[where],
            self.hidden[where],
            self._agents if self.recurrent else where[1],
            None if noise is None else noise[where],
            available[where],
        )

        def of_all(values: Tensor) -> Tensor:
            """Values of the rows that were asked -> [batch, agents, ...], 0 elsewhere."""
            width = values.shape[(2 if self.recurrent else 1) :]
            everyone = torch.zeros(ep_batch.batch_size, self.n_agents, *width, dtype=values.dtype, device=values.device)
            everyone[where] = values
            return everyone

        if self.recurrent:
            self.hidden = of_all(output.hidden)
        logits = of_all(output.logits)[deciding] if self.recurrent else output.logits
        log_probs[deciding] = masked_log_softmax(logits, available[deciding])
        return Acting(
            log_probs,
            None if output.attention is None else of_all(output.attention),
            None if output.subtask is None else of_all(output.subtask.argmax(-1)),
        )

    def agent_steps(self, batch: Any, valid: Tensor, t_env: int = 0) -> NetworkSteps:
        """The decisions of a batch within ``valid`` [batch, time], ready to evaluate."""
        index, available = decisions(batch, valid)
        inputs = torch.stack([self._inputs(batch, t) for t in range(valid.shape[1])], dim=1)
        noise = None
        if self.agent.noise_width and self.agent.noise_mode == "stored":
            assert self.played_noise is not None, "learning from episodes that nobody has played"
            noise = self.played_noise[:, : valid.shape[1]]
        elif self.agent.noise_width:
            noise = self._noise(inputs.shape[:3], "update", t_env)
        return NetworkSteps(index, available, inputs, noise, index[0] if self.recurrent else None, t_env)

    def microbatches(self, steps: NetworkSteps, rows: Tensor) -> list[Tensor]:
        """Cut ``rows`` [n] of the steps into parts of at most ``microbatch`` agent-steps, or of one whole episode."""
        if not self.recurrent:
            return list(rows.split(self.args.microbatch))
        episode = steps.index[0][rows]
        at_once = max(1, self.args.microbatch // steps.inputs[0, ..., 0].numel())
        return [rows[torch.isin(episode, part)] for part in episode.unique().split(at_once)]

    def evaluate(self, steps: NetworkSteps, rows: Tensor) -> Evaluation:
        """The current policy on ``rows`` [n] of the steps; with memory, all of their episodes are played again."""
        episode, step, agent = (place[rows] for place in steps.index)
        if not self.recurrent:
            nothing = self.agent.init_hidden().expand(len(rows), -1)
            inputs = steps.inputs[episode, step, agent]
            output = self.agent.evaluate(inputs, nothing, agent, available=steps.available[rows])
            return Evaluation(output.logits, output.losses, output.stats)
        episodes, place = episode.unique(return_inverse=True)
        noise = steps.noise
        if noise is not None and self.agent.noise_mode == "redraw":
            noise = self._noise(noise.shape[:3], "redraw", steps.t_env)
        last = int(step.max()) + 1
        inputs = steps.inputs[episodes, :last].transpose(0, 1)
        drawn = None if noise is None else noise[episodes, :last].transpose(0, 1)
        empty = self.agent.init_hidden().expand(len(episodes), self.n_agents, -1)
        output = self.agent.unroll(inputs, empty, self._agents, drawn)

        def at_rows(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[step, place, agent] for name, value in values.items()}

        return Evaluation(output.logits[step, place, agent], at_rows(output.losses), at_rows(output.stats))

    def _inputs(self, batch: Any, t: int) -> Tensor:
        """What the network reads at timestep ``t``: [batch, agents, input_size], in the host's order."""
        parts = [batch["obs"][:, t]]
        if self.args.obs_last_action:
            before = batch["actions_onehot"][:, t - 1] if t else torch.zeros_like(batch["actions_onehot"][:, t])
            parts.append(before.to(parts[0].dtype))
        if self.args.obs_agent_id:
            parts.append(torch.eye(self.n_agents, device=parts[0].device).expand(len(parts[0]), -1, -1))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _noise(self, shape: tuple[int, ...], mode: str, t_env: int) -> Tensor:
        return self.agent.noise(shape, self._draws.generator(mode, t_env)).to(self.device)

    def _test_noise(self, ep_batch: Any, t: int, t_env: int) -> Tensor:
        """Draw noise [batch, agents, noise_width] keyed by episode and step, whatever is played at once."""
        key = (self.args.seed, "test noise", t_env)
        generators = [keyed_generator(*key, episode, t) for episode in self._test_episodes.of(ep_batch, t)]
        return torch.stack([self.agent.noise((self.n_agents,), each) for each in generators]).to(self.device)

    def _remember_noise(self, noise: Tensor, t: int, steps: int, running: Tensor) -> None:
        shape = (len(noise), steps, *noise.shape[1:])
        if self.played_noise is None or self.played_noise.shape != shape:
            self.played_noise = torch.zeros(shape, device=noise.device)
        self.played_noise[running, t] = noise[running]
