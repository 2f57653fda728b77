"""JSON and YAML of other people."""

from pathlib import Path

import pytest

from hf_tl.storage.documents import DEEPEST, MOST_BYTES, MOST_CHARACTERS, parse_json, parse_yaml, read_json

REFUSED_JSON = {
    "a name twice": ('{"a": 1, "b": {"c": 2, "c": 3}}', "each name once, found c twice"),
    "not a number": ('{"a": NaN}', "finite numbers, found NaN"),
    "an infinite number": ("[1e400]", "finite numbers, found 1e400"),
    "deep": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"at most {DEEPEST} levels"),
    "too deep to parse": ("[" * 10**6, "at most|Expecting"),
    "a number of thousands of digits": ("9" * 5000, "4300 digits"),
    "no JSON": ("{", "Expecting property name"),
}
REFUSED_YAML = {
    "a name twice": ("a: 1\nb: {c: 2, c: 3}", "each name once, found c twice in line 2"),
    "deep": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "levels"),
    "a list in itself": ("&a [*a]", "levels"),
    "text that is too long": ("x" * (MOST_CHARACTERS + 1), "at most 1,000,000 characters"),
    "a tag that its text does not fit": ("!!timestamp x", "AttributeError"),
    "a date that does not exist": ("2001-99-99", "month"),
    "code": ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
    "no YAML": ("a: [", "expected the node content"),
}


@pytest.mark.parametrize("kind", REFUSED_JSON)
def test_json_beyond_plain_values_is_refused_with_the_reason(kind: str) -> None:
    text, said = REFUSED_JSON[kind]
    with pytest.raises(ValueError, match=said):
        parse_json(text)


@pytest.mark.parametrize("kind", REFUSED_YAML)
def test_yaml_beyond_plain_values_is_refused_with_the_reason(kind: str) -> None:
    text, said = REFUSED_YAML[kind]
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)


def test_values_up_to_the_deepest_level_are_read() -> None:
    text = "[" * DEEPEST + "]" * DEEPEST
    assert str(parse_json(text)) == str(parse_yaml(text)) == text


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with open(file, "wb") as stream:
        stream.truncate(100 * MOST_BYTES)  # a sparse file
    with pytest.raises(ValueError, match="at most 34 MB"):
        read_json(file)


def test_yaml_merges_and_empty_documents_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}")["b"] == {"x": 1, "y": 2}
    assert parse_yaml("# nothing") is None
