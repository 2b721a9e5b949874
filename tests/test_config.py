"""What was built can be written down as plain values and built again."""

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitdet.config import Configurable, build, config_of

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Part(Configurable):
    def __init__(self, first, second=2, *, third=None, **rest):
        self.first, self.second, self.third, self.rest = first, second, third, rest


class Derived(Part):
    def __init__(self, only):
        super().__init__(only, 5)


class Inherits(Part):
    pass


@given(plain)
def test_plain_values_come_back_as_they_were(value):
    assert build(config_of(value)) == value


def test_parts_come_back_with_all_their_arguments():
    part = Part(Part([1, (2, 3)]), third=Path("a/b"), extra={"deep": Part(1, 4)})
    again = build(config_of(part))
    assert type(again) is Part and type(again.first) is Part
    assert again.first.first == [1, [2, 3]] and again.second == 2 and again.third == "a/b"
    assert again.rest["extra"]["deep"].second == 4


def test_the_outermost_constructor_is_remembered():
    assert config_of(Derived(7))["init_args"] == {"only": 7}
    assert (build(config_of(Derived(7))).first, build(config_of(Derived(7))).second) == (7, 5)
    assert type(build(config_of(Inherits(1)))) is Inherits


def test_a_config_survives_a_safe_checkpoint():
    config, file = config_of(Part(Derived(1), [0.5, "x", None, True])), io.BytesIO()
    torch.save(config, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == config


@pytest.mark.parametrize("value", [object(), torch.zeros(1), {1, 2}, len])
def test_what_could_not_be_built_again_is_refused(value):
    with pytest.raises(TypeError, match=f"argument of type {type(value).__name__} can't be saved"):
        config_of(Part([value]))


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "torch.nn.Linear", "pathlib.Path"])
def test_a_checkpoint_may_build_only_parts(path):
    with pytest.raises(TypeError, match="is not a vitdet part"):
        build({"class_path": path, "init_args": {}})


def test_unknown_parts_are_errors():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        build({"class_path": "nowhere.Part", "init_args": {}})
    with pytest.raises(AttributeError, match="Missing"):
        build({"class_path": "vitdet.config.Missing", "init_args": {}})
