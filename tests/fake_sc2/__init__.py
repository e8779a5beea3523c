"""A fake StarCraft II: enough of it for the real pysc2 with the real smac or smacv2 to play whole episodes.

The battle is plain Python: ``units`` and ``maps`` are its tables, ``battle`` its rules, ``computer`` the
opponent, ``game`` the map's trigger that starts battle after battle. ``session`` and ``server`` speak the
protocol, ``faults`` breaks the game on purpose, ``install`` makes a folder that pysc2 takes for the game.
"""
