"""The one exception for what a user can cause."""


class ConfigError(Exception):
    """Something the user set, asked for or pointed at cannot be used.

    The message is one sentence: what was set, why it cannot be, which key to change. The command
    line prints it alone, without a traceback, and exits with code 2.
    """
