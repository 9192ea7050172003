"""What counts as a recipe file, and how its scalars read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.yaml_source import MAX_BYTES, parse_yaml, read_recipe


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "run.yaml")
    (problem,) = caught.value.problems
    return problem


def file_problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("'1'", "1"),
        ("~", None),
        ("", None),
        ("nullable", "nullable"),
        ("0x", "0x"),
        ("1e", "1e"),
        ("!!str 5", "5"),
        ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
    ],
)
def test_scalars_read_as_in_yaml_1_2(text: str, value: object) -> None:
    found, _ = parse_yaml(text, "t")
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_number_that_python_writes_reads_back(number: float) -> None:
    found, _ = parse_yaml(repr(number), "t")
    assert found == number
    assert type(found) is type(number)


def test_lines_are_kept_for_every_key() -> None:
    _, origins = parse_yaml("a: 1\nb:\n  - c: 2\n    d: 3\n", "t")
    assert origins == {("a",): "t:1", ("b",): "t:2", ("b", 0, "c"): "t:3", ("b", 0, "d"): "t:4"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "run.yaml:4:3: b.c is set twice; first at run.yaml:3"),
        ("a:\n\tb: 1\n", "run.yaml:2:1: a tab; indent with spaces"),
        ("a: !!python/object/apply:os.system [id]", "run.yaml:1:4: the tag !!python/object/apply:os.system is refused"),
        ("a: !mine {b: 1}", "run.yaml:1:4: the tag !mine is refused"),
        ("a: !!int x", "run.yaml:1:4: 'x' is no int"),
        ("1: a", "run.yaml:1:1: the key 1 is not a text; quote it"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "run.yaml:3:3: merge keys (<<) are not read; write the keys out"),
        ("a: *gone", "run.yaml:1:4: found undefined alias 'gone'"),
        ("a: 1\n---\nb: 2", "run.yaml:2:1: but found another document"),
        ("a: [1", "run.yaml:1:6: expected ',' or ']'"),
        ("a: \x07", "run.yaml: the character U+0007 at position 3 is not allowed in YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_at_its_place(text: str, problem: str) -> None:
    assert problem_of(text).startswith(problem)


def test_an_anchor_may_be_used_again() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "t")[0] == {"a": [1, 2], "b": [1, 2]}


def test_aliases_that_multiply_are_bounded() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "aliases (*name) repeat" in problem_of("\n".join(levels))


def test_an_alias_of_itself_is_refused() -> None:
    assert "contain themselves" in problem_of("a: &x [*x]")


def test_deep_nesting_is_refused_before_python_runs_out_of_stack() -> None:
    assert problem_of("[" * 5000) == "run.yaml:1:21: more than 20 levels deep"


def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "gone.yaml"
    assert file_problem(missing) == (
        f"{missing}: cannot be read: No such file or directory (current folder: {Path.cwd()})"
    )
    assert file_problem(tmp_path) == f"{tmp_path}: a folder; name the recipe file in it"
    path = tmp_path / "run.yaml"
    for content, problem in [
        (b"", "empty; a recipe needs"),
        (b"# only a comment\n", "empty; a recipe needs"),
        (b"- a\n", "holds list, want `key: value` lines"),
        (b"name: \xff", "not UTF-8: byte 0xff at offset 6"),
        (b"#" * (MAX_BYTES + 1), "larger than 256 KiB"),
    ]:
        path.write_bytes(content)
        assert file_problem(path).startswith(f"{path}: {problem}")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_recipe(path).data == {"a": 1, "b": "x"}
