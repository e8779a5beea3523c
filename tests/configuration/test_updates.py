"""The words after ``with``: values are read as Sacred reads them, but objects that they name are not built."""

import pytest

from lolm_plugin.commands import train
from lolm_plugin.configuration.updates import literal, nested, parse, repeated, written
from lolm_plugin.errors import LONGEST, ConfigError, one_line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1", 1), ("1e6", 1e6), ("0.5", 0.5), ("None", None), ("True", True), ("'1'", "1"), ("3m", "3m"), ("", "")),
        *(("(1, 2)", [1, 2]), ("[[1], (2,)]", [[1], [2]]), ("{'eps': 1}", {"eps": 1}), ("a b", "a b"), ("nan", "nan")),
    ],
)
def test_values_are_read_as_sacred_reads_them(text, value):
    from sacred.arg_parser import get_config_updates

    assert parse([f"label={text}"]) == {"label": value}
    assert get_config_updates([f"label={text}"])[0] == {"label": value}


@pytest.mark.parametrize("value", [1, 1.5, None, True, "text", "1", " x", "[1]", [1, "a"], "it's"])
def test_a_written_value_is_read_back(value):
    assert literal(written(value).strip()) == value


def test_sections_and_dotted_keys_are_one_setting():
    assert parse(["kl.eps=1", "kl={'coef_max': 2}", "kl.eps=3"]) == {"kl": {"eps": 3, "coef_max": 2}}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (['lr=b"x"'], "lr=b'x' on the command line is of type bytes"),
        (["lr=1j"], "of type complex"),
        (["lr={1, 2}"], "of type set"),
        (["lr=..."], "of type ellipsis"),
        (["entity.further_fields=[...]"], "entity.further_fields=Ellipsis on the command line is of type"),
        (["t_max=99999999999999999999"], "t_max on the command line is a whole number beyond 64 bits"),
        (["lr=1e999"], "lr=inf on the command line is not a finite number"),
        (["kl={1: 2}"], "kl on the command line has the key 1, which is not a text"),
        (["label=\udcff"], "label on the command line has bytes that are not UTF-8 text"),
        (["=1"], "=1 after `with` names no key"),
        (["kl..eps=1"], "kl..eps=1 after `with` names no key"),
    ],
)
def test_values_that_no_key_takes_are_refused(words, part):
    with pytest.raises(ConfigError) as error:
        parse(words)
    assert part in str(error.value)


def test_no_object_that_a_value_names_is_built(tmp_path):
    mark = tmp_path / "mark"
    call = [{"py/function": "pathlib.Path"}, {"py/tuple": [str(mark)]}]
    assert parse([f"label=[{{'py/reduce': {call}}}]"])["label"] == [{"py/reduce": call}]
    parse([f"label=[{{'py/object/apply:os.mkdir': ['{mark}']}}]"])
    assert not mark.exists()


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a.b": 1, "a.b.c": 2}])
def test_a_key_is_a_value_or_a_section(flat):
    with pytest.raises(ConfigError, match="a value and a section at once"):
        nested(flat, "here")


def test_a_key_set_twice_is_reported():
    assert repeated(["lr=0.1", "gamma=0.9", "lr=0.2", "gamma=0.9"]) == [
        "lr appears 2 times after `with`: the last one, lr=0.2, counts."
    ]


def test_an_error_is_one_line_of_bounded_length_for_any_value(capsys):
    assert one_line("a\nb\x1b[31m  c") == "a b [31m c"
    assert len(one_line("x" * 10_000)) < 200
    assert len(one_line("x " * 10_000)) <= LONGEST
    value = "9" * 5000 + "\n\x1b[31m"
    line = ["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none", "with", f"lr={value}"]
    assert train.main(["main.py", *line]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 300
    assert "\x1b" not in said
