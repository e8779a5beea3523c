"""A fake StarCraft II with which the real pysc2 and the real smac or smacv2 play whole episodes.

The battle is plain Python: ``units`` and ``maps`` are its tables, ``battle`` its rules, ``computer`` the opponent,
``game`` the map's trigger, which starts one battle after another. ``session`` and ``server`` implement the protocol.
``faults`` makes the game crash or hang on purpose. ``install`` creates a folder that pysc2 accepts as the game.
"""
