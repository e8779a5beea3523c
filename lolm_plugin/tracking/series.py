"""Prefixes of the series of tests, in front of a statistic's name: ``test_battle_won_mean``."""

GREEDY, SAMPLED, HELD_OUT = "test_", "test_sampled_", "held_out_"
