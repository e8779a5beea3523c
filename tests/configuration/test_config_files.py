"""Finding, reading and merging yaml files."""

import re
from types import SimpleNamespace

import pytest

from lolm_plugin.configuration import config_files
from lolm_plugin.configuration.config_files import (
    available,
    find,
    flatten,
    known_keys,
    merge,
    merge_all,
    plugin_config_dir,
    read,
    resolve,
    stack,
)
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.sc2 import MAPS
from lolm_plugin.paths import config_dir, locate


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A host and a plugin with a few files each; ``write(path, text)`` adds one."""

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    write("host/default.yaml", "a: 1\nb: 1\nc: 1\nd: 1\nsection: {x: 1, y: 1}\nenv_args: {}")
    write("host/algs/theirs.yaml", "d: 4")
    write("host/algs/both.yaml", "d: 4")
    write("host/envs/field.yaml", "env: field\nc: 3\nd: 3\nsection: {y: 3}\nenv_args: {map_name: hill}")
    write("ours/default.yaml", "b: 2\nc: 2\nd: 2\nsection: {z: 2}")
    write("ours/algs/both.yaml", "d: 5")
    write("ours/algs/ours.yaml", "d: 5\nsection: {z: 5}")
    write("ours/envs/sea.yaml", "env: sea\nenv_args: {map_name: isle}")
    monkeypatch.setattr(config_files, "plugin_config_dir", lambda: tmp_path / "ours")
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(host=tmp_path / "host", ours=tmp_path / "ours", write=write)


def test_the_algorithm_overrides_the_environment_and_both_override_the_defaults(tree):
    resolved = resolve("ours", "field", tree.host)
    assert resolved.config == {
        **{"a": 1, "b": 2, "c": 3, "d": 5},
        **{"section": {"x": 1, "y": 3, "z": 5}, "env": "field", "env_args": {"map_name": "hill"}},
    }
    assert resolved.files == (
        tree.host / "default.yaml",
        tree.ours / "default.yaml",
        tree.host / "envs/field.yaml",
        tree.ours / "algs/ours.yaml",
    )


def test_our_defaults_are_not_used_for_the_hosts_algorithms(tree):
    resolved = resolve("theirs", "sea", tree.host)
    assert (resolved.config["b"], resolved.config["d"]) == (1, 4)
    assert "z" not in resolved.config["section"]


def test_our_file_overrides_the_hosts_of_the_same_name(tree):
    assert find("algs", "both", tree.host) == tree.ours / "algs/both.yaml"
    assert available("algs", tree.host).keys() == {"theirs", "both", "ours"}
    assert available("envs", tree.host).keys() == {"field", "sea"}


@pytest.mark.parametrize("name", ["mine/try.yaml", "mine/try"])
def test_a_path_is_found_with_or_without_its_ending(tree, name):
    file = tree.write("mine/try.yaml", "d: 6")
    assert find("algs", name, tree.host).resolve() == file
    assert find("algs", str(file.parent / name.split("/")[1]), tree.host) == file
    assert resolve(name, "field", tree.host).config["b"] == 2


def test_a_known_name_has_priority_over_a_file_in_the_current_folder(tree):
    tree.write("ours.yaml", "d: 6")
    assert find("algs", "ours", tree.host) == tree.ours / "algs/ours.yaml"


def test_a_misspelt_name_is_refused_with_the_nearest_and_all_others(tree):
    with pytest.raises(ConfigError) as error:
        find("algs", "our", tree.host)
    assert str(error.value).startswith("--config=our is neither a yaml file nor a known name (did you mean ours?)")
    assert "known: both, ours, theirs." in str(error.value)


def test_a_name_unlike_all_others_is_refused_without_a_suggestion(tree):
    with pytest.raises(ConfigError, match=re.escape("--env-config=qqq")) as error:
        find("envs", "qqq", tree.host)
    assert "did you mean" not in str(error.value)
    assert "known: field, sea." in str(error.value)


@pytest.mark.parametrize("name", [None, ""])
def test_a_missing_name_is_refused_with_the_choices(tree, name):
    with pytest.raises(ConfigError, match=r"--env-config is missing; set it to one of: field, sea\."):
        find("envs", name, tree.host)


def test_a_folder_is_not_a_yaml_file(tree):
    (tree.host / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="neither a yaml file nor a known name"):
        find("algs", str(tree.host / "folder.yaml"), tree.host)


@pytest.mark.parametrize("text", ["a: [1, 2", "a: 1\n  b: 2", "a: 1\na\n", "a: !!python/object:os.system x"])
def test_invalid_yaml_is_refused_in_one_line_naming_the_file(tree, text):
    file = tree.write("bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        read(file)
    assert str(error.value).startswith(f"{file} is not valid yaml (")
    assert "\n" not in str(error.value)


def test_a_binary_file_is_refused_as_invalid(tree):
    file = tree.write("bad.yaml", "")
    file.write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid yaml"):
        read(file)


def test_text_is_read_as_utf_8_in_any_locale(tree, fresh_python):
    file = tree.write("good.yaml", "")
    file.write_bytes("label: Ägäis → 7".encode())
    program = (
        "from pathlib import Path; from lolm_plugin.configuration.config_files import read; "
        f"print(ascii(read(Path({str(file)!r}))))"
    )
    output = fresh_python(program, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert output == ascii({"label": "Ägäis → 7"}) + "\n"


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_file_without_keys_is_refused(tree, text):
    file = tree.write("list.yaml", text)
    with pytest.raises(ConfigError, match=r"list\.yaml holds no key: value pairs"):
        read(file)


def test_merge_works_inside_sections_and_changes_neither_argument():
    base, update = {"a": 1, "s": {"x": 1, "y": {"z": 1}}}, {"s": {"y": {"w": 2}}, "b": {"c": 3}}
    assert merge(base, update) == {"a": 1, "s": {"x": 1, "y": {"z": 1, "w": 2}}, "b": {"c": 3}}
    assert base == {"a": 1, "s": {"x": 1, "y": {"z": 1}}}
    assert update == {"s": {"y": {"w": 2}}, "b": {"c": 3}}


def test_merge_fills_an_empty_section():
    assert merge({"env_args": None}, {"env_args": {"map_name": "hill"}}) == {"env_args": {"map_name": "hill"}}
    assert merge({"env_args": {}}, {"env_args": {"map_name": "hill"}}) == {"env_args": {"map_name": "hill"}}


@pytest.mark.parametrize("value", [1, "text", [1, 2]])
def test_merge_replaces_a_value_by_a_section_and_back(value):
    assert merge({"a": value}, {"a": {"x": 1}}) == {"a": {"x": 1}}
    assert merge({"a": {"x": 1}}, {"a": value}) == {"a": value}


def test_flatten_names_nested_keys_with_dots():
    assert flatten({"a": 1, "s": {"x": 2, "t": {"y": 3}}, "empty": {}}) == {"a": 1, "s.x": 2, "s.t.y": 3, "empty": {}}


def test_known_keys_are_those_of_defaults_and_algorithms_but_not_of_environments(tree):
    tree.write("ours/algs/ours.yaml", "special: 7\nsection: {deep: 8}")
    known = known_keys(tree.host)
    assert {"a", "special", "section.x", "section.z", "section.deep"} <= known.keys()
    assert not {"env", "env_args", "env_args.map_name"} & known.keys()


def test_our_own_files_are_found():
    assert (plugin_config_dir() / "default.yaml").is_file()
    assert (plugin_config_dir() / "algs/lolm_mappo.yaml").is_file()


def on_hill(algorithm, tree, **updates):
    return merge_all(layer.settings for layer in stack(resolve(str(algorithm), "field", tree.host), updates))


def test_a_map_changes_the_settings_of_the_shipped_algorithm_only(tree):
    tree.write("ours/maps/ours.yaml", "hill: {d: 7}")
    assert on_hill("ours", tree)["d"] == 7
    assert on_hill("ours", tree, env_args={"map_name": "isle"})["d"] == 5
    assert on_hill("ours", tree, env_args={"map_name": None})["d"] == 5
    assert on_hill("ours/algs/ours.yaml", tree)["d"] == 7  # the tree is the current folder
    assert on_hill("both", tree)["d"] == 5
    assert on_hill(tree.write("mine/ours.yaml", "d: 6"), tree)["d"] == 6


def test_an_algorithm_inherits_from_the_files_it_extends(tree):
    tree.write("ours/algs/middle.yaml", "extends: ours\nd: 6\nmiddle: 6")
    mine = tree.write("mine/try.yaml", "extends: middle\nsection: {x: 7}")
    resolved = resolve(str(mine), "field", tree.host)
    assert resolved.algorithms == (tree.ours / "algs/ours.yaml", tree.ours / "algs/middle.yaml", mine)
    assert resolved.config == {
        **{"a": 1, "b": 2, "c": 3, "d": 6, "middle": 6},
        **{"section": {"x": 7, "y": 3, "z": 5}, "env": "field", "env_args": {"map_name": "hill"}},
    }
    assert "extends" not in known_keys(tree.host)


@pytest.mark.parametrize("name", ["mine/base.yaml", "mine/base"])
def test_a_path_can_be_extended(tree, name):
    tree.write("mine/base.yaml", "extends: ours\nd: 6")
    mine = tree.write("mine/try.yaml", f"extends: {name}\na: 7")
    config = resolve(str(mine), "field", tree.host).config
    assert (config["a"], config["d"], config["section"]["z"]) == (7, 6, 5)


def test_an_algorithm_of_the_host_can_be_extended_and_then_has_our_defaults(tree):
    config = resolve(str(tree.write("mine/try.yaml", "extends: theirs\na: 7")), "field", tree.host).config
    assert (config["a"], config["b"], config["d"]) == (7, 2, 4)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("extends: our", "try.yaml: extends=our is neither a yaml file nor a known name (did you mean ours?)"),
        ("extends: mine/try", "try.yaml: extends=mine/try closes a loop (try -> try)"),
        ("extends: mine/other", "other.yaml: extends=mine/try closes a loop (try -> other -> try)"),
        ("extends: [ours]", "try.yaml: extends=['ours'] is not a name"),
    ],
)
def test_an_invalid_extends_is_refused(tree, lines, complaint):
    tree.write("mine/other.yaml", "extends: mine/try")
    tree.write("mine/try.yaml", lines)
    with pytest.raises(ConfigError) as error:
        resolve("mine/try", "field", tree.host)
    assert complaint in str(error.value)


def test_map_settings_are_inherited_and_the_extending_file_overrides_them(tree):
    tree.write("ours/maps/ours.yaml", "hill: {a: 7, d: 7}")
    tree.write("ours/algs/ablation.yaml", "extends: ours\nb: 8")
    mine = tree.write("mine/try.yaml", "extends: ablation\nd: 8")
    assert (on_hill("ablation", tree)["a"], on_hill("ablation", tree)["d"]) == (7, 7)
    assert (on_hill(mine, tree)["a"], on_hill(mine, tree)["b"], on_hill(mine, tree)["d"]) == (7, 8, 8)
    assert on_hill(mine, tree, d=9)["d"] == 9


def test_an_algorithm_may_use_the_map_settings_of_another(tree):
    tree.write("ours/maps/ours.yaml", "hill: {d: 7}")
    tree.write("ours/maps/both.yaml", "same_as: ours")
    assert on_hill("both", tree)["d"] == 7
    layers = stack(resolve("both", "field", tree.host), {})
    assert [layer.source for layer in layers if layer.section] == ["config/maps/ours.yaml for hill"]


def test_our_files_for_the_hosts_environments_count_only_if_the_host_has_them(tree):
    tree.write("ours/envs/sc2.yaml", "env: sc2")
    assert "sc2" not in available("envs", tree.host)
    with pytest.raises(ConfigError, match="--env-config=sc2 needs an EPyMARL checkout"):
        find("envs", "sc2", tree.host)
    tree.write("host/envs/sc2.yaml", "env: sc2")
    assert find("envs", "sc2", tree.host) == tree.ours / "envs/sc2.yaml"


def test_every_map_of_smac_has_its_settings():
    settings = read(plugin_config_dir() / "maps/lolm_mappo.yaml")
    assert settings.keys() == MAPS.keys()
    for changes in settings.values():
        assert changes["kl"]["anneal_steps"] * 2 == changes["t_max"]


@pytest.mark.parametrize("name", ["sc2", "sc2v2", "smaclite"])
def test_our_environment_files_have_every_key_of_epymarls(name):
    """Compare with the file of a checkout. The values are equal, too, so that other algorithms do not change."""
    if locate(None) is None:
        pytest.skip("needs an EPyMARL checkout (EPYMARL_HOME)")
    theirs = flatten(read(config_dir(locate(None)) / f"envs/{name}.yaml"))
    ours = flatten(read(plugin_config_dir() / f"envs/{name}.yaml"))
    assert theirs.keys() <= ours.keys()
    assert {key: ours[key] for key in theirs if key != "env_args.map_name"} == {
        key: value for key, value in theirs.items() if key != "env_args.map_name"
    }


def test_an_algorithm_may_leave_out_settings_of_those_it_extends(tree):
    tree.write("ours/algs/ours.yaml", "a: 5\nb: 5\nc: 5\nsection: {x: 5, z: 5}\nkl: {eps: 5}")
    mine = tree.write("mine/try.yaml", "extends: ours\nleaves_out: [b, c, section.x, kl]\nc: 7")
    config = resolve(str(mine), "field", tree.host).config
    assert [config[key] for key in ("a", "b", "c")] == [5, 2, 7]  # the default, and its own
    assert config["section"] == {"x": 1, "y": 3, "z": 5}
    assert not {"kl", "leaves_out", "extends"} & config.keys()


def test_leaves_out_must_be_a_list_of_keys(tree):
    mine = tree.write("mine/try.yaml", "extends: ours\nleaves_out: b")
    with pytest.raises(ConfigError, match=r"try\.yaml: leaves_out=b is not a list of keys; write `leaves_out: \[KEY"):
        resolve(str(mine), "field", tree.host)
