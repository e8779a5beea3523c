"""LoLM-MARL: a language model as the policy of every agent, as a plugin of EPyMARL."""

__version__ = "0.1.0"
