"""Names in MLflow: every name has a unique key, which MLflow accepts."""

import re

import pytest
from hypothesis import given, strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name, path_not_unique

from ganrun_mlflow.labels import KEY_LENGTH, PICTURE_LENGTH, _flatten, key_text

PLAIN = st.from_regex(r"[A-Za-z0-9_\-.]{1,40}( [A-Za-z0-9]+)?", fullmatch=True).filter(
    lambda part: part != "." and not part.startswith("..") and "_-" not in part
)
TEXTS = st.text(st.characters()) | st.text("._-x/ 3b1α:")  # surrogates, too; and what looks like an escape


def name_of(key):
    """The inverse of `key_text`, for keys that were not cut."""
    return re.sub(r"_-([0-9a-f]*)-", lambda found: chr(int(found[1], 16)) if found[1] else "", key)


@given(TEXTS)
def test_a_key_says_its_name_and_is_legal(name):
    key = key_text(name)
    assert name_of(key) == name or len(key) == KEY_LENGTH
    assert key.isascii() and not re.search(r"[^A-Za-z0-9_\-./ ]", key), "a picture's key takes no other characters"
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(key)
    assert not path_not_unique(key)


@given(st.text(st.characters(), min_size=100), st.text(st.characters(), min_size=100))
def test_names_too_long_to_be_spelled_have_their_own_keys(one, other):
    assert (key_text(one, PICTURE_LENGTH) == key_text(other, PICTURE_LENGTH)) == (one == other)
    assert len(key_text(one, PICTURE_LENGTH)) <= PICTURE_LENGTH


@given(st.lists(PLAIN, min_size=1, max_size=5).map("/".join))
def test_an_ordinary_name_is_its_key(name):
    assert key_text(name) == name


@pytest.mark.parametrize(
    "name", ["eval_error/fid", "loss/generator.gradient_penalty", "system/gpu 0", "eval/fid-x", "augmentation/d.r_t"]
)
def test_curves_of_earlier_runs_go_on(name):
    assert key_text(name) == name


TABLES = st.recursive(st.integers(), lambda each: st.dictionaries(st.text('a.b"α'), each, min_size=1, max_size=3))


@given(st.dictionaries(st.text('a.b"α'), TABLES, min_size=1))
def test_no_two_settings_are_one_parameter(table):
    keys = [key_text(key) for key, _ in _flatten(table)]
    assert len(keys) == len(set(keys))
