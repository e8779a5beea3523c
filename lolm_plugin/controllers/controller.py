"""Base class of all controllers: EPyMARL's interface, and the interface that a policy-gradient learner needs."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lolm_plugin.checks import check_finite
from lolm_plugin.controllers.action_selector import KeyedActionSelector
from lolm_plugin.controllers.decision_log import DecisionLog
from lolm_plugin.controllers.decisions import Acting, Decisions, Evaluation
from lolm_plugin.errors import ConfigError
from lolm_plugin.memory import Part
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import FirstEpisodes, check_sizes
from lolm_plugin.protocols import Batch

D = TypeVar("D", bound=Decisions)


class Controller(Generic[D]):
    """Base class of controllers, which act for all agents with one policy. Subclasses define how it reads a batch.

    A subclass that only plays, such as a teacher, implements ``act``. One that MAPPO trains also implements
    ``decisions``, ``microbatches``, ``evaluate``, ``parameter_groups``, ``fingerprint``, ``save_models`` and
    ``load_models``, with a KL ``reference_states`` and ``reference_logits``, and for many maps ``for_map``. The learner
    calls the other methods as hooks; their defaults do nothing. Register the class in ``registry.ENTRIES["mac"]`` and
    set ``mac`` in the algorithm's yaml. A controller that chooses uniformly among the available actions::

        class RandomController(Controller):
            def act(self, ep_batch, t, t_env, running, test_mode):
                available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
                log_probs, index = certain_log_probs(available)
                log_probs[index] = masked_log_softmax(torch.zeros(available[index].shape), available[index])
                return Acting(log_probs)

    ``fields`` are the fields that this controller adds to the batch's scheme for training episodes: the
    log-probabilities of the actions taken and, for a policy that draws noise, the noise.

    Args:
        scheme: fields of the batch, as in EPyMARL: name -> ``vshape`` and more.
        groups: sizes of the scheme's groups: ``agents``.
        args: the configuration.

    Raises:
        ConfigError: the environment's sizes do not fit the layout of its observations.
    """

    MEMORY_KEYS = "the network's widths"  # named in the error when memory runs out; see ``memory.UsesMemory``
    MEMORY_SETTINGS: tuple[str, ...] = ()  # attributes that ``use_less_memory`` changes, apart from ``args.microbatch``
    agent: nn.Module

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        self.layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(self.layouts, scheme, args.n_actions)
        self.first_episodes = FirstEpisodes(self.layouts, wanted=args.layout["probes"])
        self.args = args
        self.n_agents = args.n_agents
        self.device = torch.device(args.device)
        self.fields: dict[str, dict[str, Any]] = {"behaviour_log_probs": {"vshape": (1,), "group": "agents"}}
        self.action_selector = KeyedActionSelector(args, self.layouts.observation.n_base_actions)
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = False
        self.decision_log = DecisionLog(args.decisions_file, self.layouts.observation)
        # Called in tests at every timestep with (t_ep, running, acting), as by ``watch.recorder``.
        self.test_listener: Callable[[int, Tensor, Acting], None] | None = None

    # EPyMARL's interface.

    def init_hidden(self, batch_size: int) -> None:
        """Start new episodes: clear the memory of a policy that has one."""

    def select_actions(
        self, ep_batch: Batch, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Choose actions for the running episodes ``bs`` at timestep ``t_ep``.

        In training this also writes the ``fields`` of these episodes into ``ep_batch``.

        Args:
            ep_batch: the episodes played so far [batch, time, ...].
            t_ep: the timestep.
            t_env: environment steps so far; a key of the random draws.
            bs: indices of the running episodes.
            test_mode: True in a test; see ``KeyedActionSelector``.

        Returns:
            Actions int64 [len(bs), agents].

        Raises:
            NonFiniteError: an observation or a log-probability is NaN or infinite.
            ConfigError: the first observations contradict their layout.
        """
        self.first_episodes.check(ep_batch, t_ep, bs)
        available = ep_batch["avail_actions"][:, t_ep] > 0
        running = torch.zeros(ep_batch.batch_size, dtype=torch.bool, device=available.device)
        running[bs] = True
        obs = ep_batch["obs"][:, t_ep].where(running[:, None, None], 0.0)
        check_finite("obs", obs, t_env, ("episode", "agent", "number"), ep_batch)
        acting = self.act(ep_batch, t_ep, t_env, running, test_mode)
        log_probs = acting.log_probs.where(available & running[:, None, None], 0.0)  # -inf is correct elsewhere
        check_finite("log_probs of the policy", log_probs, t_env, ("episode", "agent", "action"), ep_batch)
        episodes = self._test_episodes.of(ep_batch, t_ep) if test_mode else None
        actions = self.action_selector.select_action(
            acting.log_probs.exp(), available, t_env, test_mode, episodes, t_ep
        )
        if not test_mode:
            self._record(ep_batch, t_ep, bs, acting, actions)
        elif self.decision_log.wanted and not self._sampled_test:
            self.decision_log.write(ep_batch, t_ep, t_env, running, acting, actions)
        if test_mode and self.test_listener is not None:
            self.test_listener(t_ep, running, acting)
        return actions[bs]

    def _record(self, batch: Batch, t: int, bs: Any, acting: Acting, actions: Tensor) -> None:
        values = {
            "behaviour_log_probs": acting.log_probs.gather(-1, actions.unsqueeze(-1)),
            "behaviour_noise": acting.noise,
        }
        for name, field in self.fields.items():
            # A teacher writes into its student's batch, which may have a noise field of another width, or none.
            if batch.scheme.get(name) == field and (value := values[name]) is not None:
                batch[name][bs, t] = value[bs]

    def begin_test(self, sampled: bool) -> None:
        """Start a test. ``sampled`` draws actions even if ``test_greedy`` is set, and logs no decisions."""
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = sampled
        self.action_selector.test_greedy = self.args.test_greedy and not sampled

    def parameters(self) -> list[nn.Parameter]:
        """Return all trained parameters."""
        return [parameter for group in self.parameter_groups() for parameter in group["params"]]

    def cuda(self) -> None:
        """Move the policy to the GPU."""
        self.agent.cuda()

    def save_models(self, path: str) -> None:
        """Write the policy's weights into a folder, as safetensors."""
        raise NotImplementedError

    def load_models(self, path: str) -> None:
        """Load what ``save_models`` wrote. Raises ConfigError for a missing, unexpected or misshapen tensor."""
        raise NotImplementedError

    # The interface that a policy-gradient learner needs.

    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """Evaluate the policy at timestep ``t``, without gradient.

        Args:
            ep_batch: the episodes played so far [batch, time, ...].
            t: the timestep.
            t_env: environment steps so far; a key of the random draws.
            running: bool [batch]. In other episodes action 0 is certain.
            test_mode: True in a test.

        Returns:
            Log-probabilities [batch, agents, actions], and what else is recorded.
        """
        raise NotImplementedError

    def decisions(self, batch: Batch, valid: Tensor, t_env: int = 0) -> D:
        """Return the decisions of a batch within ``valid`` bool [batch, time], ready for ``evaluate``."""
        raise NotImplementedError

    def microbatches(self, decisions: D, subset: Tensor) -> list[Tensor]:
        """Split ``subset`` int64 [n] of the decisions into microbatches, evaluated one by one to save memory."""
        raise NotImplementedError

    def evaluate(self, decisions: D, subset: Tensor) -> Evaluation:
        """Evaluate the current policy, with gradient, on ``subset`` int64 [n] of the decisions."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as groups for an optimiser, each with ``name``, ``params`` and ``lr``."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that give the weights their meaning, apart from tensor shapes; saved in checkpoints."""
        raise NotImplementedError

    def fixed_sizes(self) -> dict[str, int]:
        """Return the map sizes that the weights require; empty if they fit any map."""
        return {}

    def ratio_tolerance(self) -> float:
        """Return the largest deviation of ``ratio_epoch0`` from 1; infinity if a setting makes the ratio differ."""
        return 1e-2

    def low_precision(self) -> bool:
        """Return True if logits depend on what is evaluated together, so that the ratio needs a measured limit."""
        return False

    def without_stored_states(self, decisions: D) -> D:
        """Return decisions whose evaluation computes everything again, to measure rounding."""
        return decisions

    def use_less_memory(self, part: Part = "policy") -> str | None:
        """Halve the microbatch, of policy and critic. Return the new setting for the log, or None at the smallest."""
        if self.args.microbatch <= 1:
            return None
        self.args.microbatch //= 2
        return f"microbatch={self.args.microbatch}"

    def for_map(
        self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace
    ) -> "Controller[D]":
        """Return a controller of the same policy for another map; they share their weights.

        Raises:
            ConfigError: the subclass does not implement it.
        """
        raise ConfigError(
            f"mac={self.args.mac} cannot play several maps, because it has no for_map; set env_args.map_name to one "
            "map and leave test_maps out, or implement Controller.for_map."
        )

    def prepare_together(self, parts: "Sequence[tuple[Controller[D], D]]") -> None:
        """Do what ``prepare`` does, for the decisions of several maps; each has its own controller."""
        for mac, decisions in parts:
            mac.prepare(decisions)

    def prepare(self, decisions: D) -> None:
        """Run before an update's first optimiser step. May reparametrise the policy; must not change its logits."""

    def transferred(self) -> None:
        """Adapt the policy, once, after it was loaded from another run (transfer)."""

    def end_update(self) -> None:
        """Free the cached states after an update."""

    def pop_usage(self) -> dict[str, float]:
        """Return the language model's usage (``prompts``, ``tokens``, ``seconds``) and reset it; empty without one."""
        return {}

    def reference_states(self, decisions: D) -> Any:
        """Compute the hidden states of the frozen reference model for each decision (language models only)."""
        raise NotImplementedError

    def reference_logits(self, states: Any) -> Tensor:
        """Compute the reference's logits from such hidden states, detached: [decisions, n_actions]."""
        raise NotImplementedError


class EpisodeNumbers:
    """Numbers of a test's episodes: 0, 1, ... in the order of their batches. They are keys of random draws."""

    def __init__(self) -> None:
        self._first = self._size = 0
        self._batch: Callable[[], Any] = lambda: None

    def of(self, batch: Batch, t_ep: int) -> range:
        """Return the numbers of the batch's episodes; call it at every timestep."""
        # A runner that replays lost episodes starts again at timestep 0 in the same batch.
        if t_ep == 0 and batch is not self._batch():
            self._first += self._size
            self._size, self._batch = batch.batch_size, weakref.ref(batch)
        return range(self._first, self._first + batch.batch_size)
