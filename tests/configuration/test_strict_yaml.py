"""Yaml with a repeated key or with values that expand too far is refused, and the lines are named."""

import pytest

from lolm_plugin.configuration.config_files import read
from lolm_plugin.configuration.strict_yaml import load
from lolm_plugin.errors import ConfigError


def refused(tmp_path, text, *parts):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        read(file)
    assert str(error.value).startswith(str(file))
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lr: 1\ngamma: 1\nlr: 2\n", ("lr appears twice, in line 1 and in line 3", "only the last one would count")),
        ("kl: {eps: 1}\nlr: 1\nkl:\n  coef_max: 1\n", ("kl appears twice, in line 1 and in line 3",)),
        ("kl:\n  eps: 1\n  eps: 2\n", ("eps appears twice, in line 2 and in line 3",)),
        ("kl:\n  eps: 1\nkl.eps: 2\n", ("kl.eps appears twice, in line 2 and in line 3",)),
        ("a: [{b: 1, b: 2}]\n", ("b appears twice, in line 1 and in line 1",)),
        ("lr: 1\n'lr': 2\n", ("lr appears twice",)),
    ],
)
def test_a_repeated_key_is_refused_with_both_lines(tmp_path, text, parts):
    refused(tmp_path, text, *parts)


def test_a_repeated_key_with_the_same_value_is_accepted_as_in_epymarls_vdn():
    assert load(b"use_rnn: False\nlr: 1\nuse_rnn: False\n") == {"use_rnn": False, "lr": 1}


def test_merge_keys_and_aliases_are_allowed():
    text = b"base: &base {lr: 1, gamma: 2}\nmine: {<<: *base, lr: 3}\nother: *base\nkl.eps: 1\nkl: {coef_max: 2}\n"
    assert load(text)["mine"] == {"lr": 3, "gamma": 2}


def test_changing_a_result_does_not_change_the_next_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("kl: {eps: 1}\n")
    read(file)["kl"]["eps"] = 2
    assert read(file) == {"kl": {"eps": 1}}


DOUBLING = "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (DOUBLING, "expands to more than 100000 values"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: &a {b: *a}\n", "contains itself"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: 2020-13-45\n", "a value does not fit its type"),
        ("a: !!bool perhaps\n", "a value does not fit its type"),
        ("a: !!int x\n", "a value does not fit its type"),
        ("a: !!timestamp x\n", "a value does not fit its type"),
        (f"a: {'9' * 5000}\n", "a value does not fit its type"),
        (b"a: \xff\n", "is not valid yaml"),
        ("a: \x07\n", "is not valid yaml"),
        (b"\n" * 1_000_001, "more than 1000000 bytes"),
    ],
    ids=lambda value: str(value)[:20].encode("unicode_escape").decode(),
)
def test_anything_but_plain_data_is_refused(tmp_path, text, part):
    refused(tmp_path, text, part)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read \(No such file or directory\)"):
        read(file)
