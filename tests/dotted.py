"""Settings with dotted keys, as after ``with`` on the command line."""


def put(config, changes):
    """Write ``changes`` {"section.key": value} into the nested ``config``; every key has to be there."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        assert last in inner, f"{key} is no key"
        inner[last] = value
