"""The multi-agent controller of language-model policies: batches in, actions and logits out."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from lolm_plugin.checkpoints.files import load_tensors, save_tensors
from lolm_plugin.controllers.action_selector import KeyedActionSelector
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.backbone import Backbone
from lolm_plugin.llm.batching import plan_microbatches
from lolm_plugin.modules.agents.llm_agent import LLMAgent
from lolm_plugin.modules.masked_policy import masked_log_softmax
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import check_sizes
from lolm_plugin.observations.probes import FirstBattles


@dataclass(frozen=True)
class AgentSteps:
    """The decisions of a batch: every agent-step with at least two available actions.

    Dead agents (one action) and padding (none) are not among them: their action is forced, so their
    log-probability and entropy are 0, they have no gradient, and the LM never reads them.
    """

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [rows]
    available: Tensor  # bool [rows, n_actions]
    prompts: list[list[int]]  # token ids of every different prompt's own part
    prompt: Tensor  # int64 [rows]: which of the prompts a row reads

    def __len__(self) -> int:
        return len(self.prompt)


class PromptMAC:
    """Shares one LLM agent between all agents; the host's controller contract plus what a learner needs."""

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(layouts, scheme, args.n_actions)
        self.first_battles = FirstBattles(layouts, wanted=args.layout["probes"])
        self.args = args
        self.n_agents = args.n_agents
        self.device = torch.device(args.device)
        prompter = build_prompter(args.llm, args.prompt, layouts.observation)
        backbone = Backbone(args.llm, args.lora, args.seed, device=str(self.device))
        self.agent = LLMAgent(prompter, backbone, args.head, args.seed).to(self.device)
        self.action_selector = KeyedActionSelector(args)
        # Log-probabilities of the actions taken in the last training rollout, [batch, time, agents].
        self.behaviour_log_probs: Tensor | None = None

    # The host's contract.

    def init_hidden(self, batch_size: int) -> None:
        """Nothing to reset: every prompt holds all that its agent knows."""

    def select_actions(
        self, ep_batch: Any, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Actions [len(bs), agents] of the running episodes ``bs`` at timestep ``t_ep``."""
        self.first_battles.look(ep_batch, t_ep, bs)
        available = ep_batch["avail_actions"][:, t_ep] > 0
        running = torch.zeros(ep_batch.batch_size, dtype=torch.bool, device=available.device)
        running[bs] = True
        log_probs = self._log_probs(ep_batch["obs"][:, t_ep], available & running[:, None, None])
        actions = self.action_selector.select_action(log_probs.exp(), available, t_env, test_mode)
        if not test_mode:
            self._remember(log_probs, actions, t_ep, ep_batch.max_seq_length, bs)
        return actions[bs]

    def forward(self, ep_batch: Any, t: int, test_mode: bool = False) -> Tensor:
        """Probabilities [batch, agents, actions] at one timestep, without gradient; learners call ``logits``."""
        return self._log_probs(ep_batch["obs"][:, t], ep_batch["avail_actions"][:, t] > 0).exp()

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained: LoRA and the action head."""
        return [*self.agent.backbone.lora_parameters(), *self.agent.head.parameters()]

    def cuda(self) -> None:
        """Move to the GPU."""
        self.agent.cuda()

    def save_models(self, path: str) -> None:
        """Adapter in PEFT's own format and action head, as safetensors."""
        self.agent.backbone.save_adapter(f"{path}/adapter")
        save_tensors(f"{path}/head.safetensors", self.agent.head.state_dict())

    def load_models(self, path: str) -> None:
        """Load strictly what ``save_models`` wrote; a missing or unexpected tensor is a ConfigError."""
        self.agent.backbone.load_adapter_state(load_tensors(f"{path}/adapter/adapter_model.safetensors"))
        tensors = load_tensors(f"{path}/head.safetensors", expected=self.agent.head.state_dict())
        self.agent.head.load_state_dict(tensors)

    def __deepcopy__(self, memo: dict) -> NoReturn:
        raise ConfigError(
            f"learner={self.args.learner} copies its controller, which would put a second language model into memory; "
            "set learner=mappo_learner, which needs no copy."
        )

    # What a policy-gradient learner needs.

    def agent_steps(self, batch: Any, valid: Tensor) -> AgentSteps:
        """The decisions of a batch within ``valid`` [batch, time], in a fixed order, ready to evaluate."""
        steps = valid.shape[1]
        available = batch["avail_actions"][:, :steps] > 0
        deciding = (available.sum(-1) > 1) & valid.unsqueeze(-1)
        index = torch.nonzero(deciding, as_tuple=True)
        rows = available[index]
        prompts, prompt = _distinct(self.agent.prompter.encode(batch["obs"][:, :steps][index], rows, index[2]))
        return AgentSteps(index, rows, prompts, prompt.to(rows.device))

    def microbatches(self, steps: AgentSteps, rows: Tensor) -> list[Tensor]:
        """Cut ``rows`` [n] of the steps into groups that fit the token budget, similar lengths together."""
        read = steps.prompt[rows]
        distinct = read.unique()
        groups = self._groups([steps.prompts[i] for i in distinct.tolist()])
        return [rows[torch.isin(read, distinct[torch.tensor(group, device=read.device)])] for group in groups]

    def logits(self, steps: AgentSteps, rows: Tensor) -> Tensor:
        """Action logits [len(rows), n_actions] of the current policy, with gradient; equal prompts are read once."""
        distinct, read = steps.prompt[rows].unique(return_inverse=True)
        hidden = self.agent.hidden([steps.prompts[i] for i in distinct.tolist()])
        return self.agent.logits(hidden)[read]

    def reference_hidden(self, steps: AgentSteps) -> Tensor:
        """Hidden states [len(steps), hidden] of the frozen pretrained LM; the same all through an update."""
        return self._hidden(steps.prompts, reference=True)[steps.prompt]

    def reference_logits(self, hidden: Tensor) -> Tensor:
        """The frozen LM through the current head (paper, section 4.1), detached: [rows, n_actions]."""
        return self.agent.logits(hidden).detach()

    @torch.no_grad()
    def _log_probs(self, obs: Tensor, available: Tensor) -> Tensor:
        """Log-probabilities [batch, agents, actions] without gradient, -inf where unavailable.

        Where nothing is available (padding) action 0 is certain. obs [batch, agents, obs_size],
        available bool [batch, agents, actions].
        """
        forced = ~available.any(-1)  # padding: action 0, as certain as a dead agent's
        available = torch.cat([available[..., :1] | forced.unsqueeze(-1), available[..., 1:]], dim=-1)
        log_probs = torch.full(available.shape, -torch.inf, device=available.device)
        log_probs[available] = 0.0  # right where there is at most one action; the others follow
        index = torch.nonzero(available.sum(-1) > 1, as_tuple=True)
        if len(index[0]):
            rows = available[index]
            prompts, prompt = _distinct(self.agent.prompter.encode(obs[index], rows, index[1]))
            hidden = self._hidden(prompts)[prompt.to(rows.device)]
            log_probs[index] = masked_log_softmax(self.agent.logits(hidden), rows)
        return log_probs

    def _groups(self, sequences: list[list[int]]) -> list[list[int]]:
        """Which sequences the LM reads together; a prefix that cannot be shared is read again by every row."""
        prefix, shared = len(self.agent.prompter.prefix), self.agent.backbone.shares_prefix
        lengths = [len(sequence) + (0 if shared else prefix) for sequence in sequences]
        return plan_microbatches(lengths, self.args.llm["token_budget"], prefix if shared else 0)

    @torch.no_grad()
    def _hidden(self, sequences: list[list[int]], reference: bool = False) -> Tensor:
        """Hidden states [rows, hidden] without gradient, as many microbatches as the token budget asks for."""
        hidden = torch.empty(len(sequences), self.agent.backbone.hidden_size, device=self.device)
        for group in self._groups(sequences):
            hidden[group] = self.agent.hidden([sequences[i] for i in group], reference=reference)
        return hidden

    def _remember(self, log_probs: Tensor, actions: Tensor, t_ep: int, steps: int, bs: Any) -> None:
        shape = (actions.shape[0], steps, self.n_agents)
        if self.behaviour_log_probs is None or self.behaviour_log_probs.shape != shape:
            self.behaviour_log_probs = torch.zeros(shape, device=actions.device)
        if t_ep == 0:  # of these episodes; others of the batch may have been played before
            self.behaviour_log_probs[bs] = 0.0
        self.behaviour_log_probs[bs, t_ep] = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)[bs]


def _distinct(sequences: list[list[int]]) -> tuple[list[list[int]], Tensor]:
    """The different sequences, and for each of the given ones (int64 [rows]) which of them it is."""
    places: dict[tuple[int, ...], int] = {}
    place = torch.tensor([places.setdefault(tuple(sequence), len(places)) for sequence in sequences], dtype=torch.int64)
    return [list(sequence) for sequence in places], place
