"""Settings with dotted keys, like those after ``with`` on the command line."""


def put(config, changes):
    """Write ``changes`` {"section.key": value} into the nested ``config``. Every key must exist."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        assert last in inner, f"{key} is not a key"
        inner[last] = value
