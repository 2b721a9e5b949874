"""What was built can be written down as plain values and built again."""

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vitdet
from vitdet.config import Configurable, build, config_of, options, part, public_path
from vitdet.errors import UserError
from vitdet.ranges import whole

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


@options({"points": whole(1)})
class Masks:
    branch: str = "plain"
    points: int = 12


@options({})
class Search:
    masks: Masks = Masks()
    scale: float = 4.0


class Neck(Configurable):
    def __init__(self, channels, *, strides, depth=1, search: Search = Search()):
        self.channels, self.strides, self.depth, self.search = channels, strides, depth, search


class WideNeck(Neck):
    def __init__(self, *sizes, width=2, **options):
        super().__init__(*sizes, **options)
        self.width = width


class Owner(Configurable):
    def __init__(
        self,
        size=1,
        *,
        search: Search = Search(),
        masks: bool | Masks = False,
        neck: Callable[..., Neck] | None = Neck,
        beside: Part | None = None,
    ):
        self.size, self.search, self.masks, self.beside = size, search, masks, beside
        self.neck = None if neck is None else self.make_part("neck", neck, 7, strides=[8])


class Heir(Owner):
    def __init__(self, more=0, **options):
        super().__init__(size=5, **options)


class Doubles(Heir):
    def __init__(self, *, neck=Neck, **options):
        super().__init__(more=3, neck=partial(neck, depth=9), **options)


SEARCH = {"masks": {"branch": "plain", "points": 12}, "scale": 4.0}
NECK = {"class_path": f"{__name__}.Neck", "init_args": {"depth": 1, "search": SEARCH}}


def again(value):
    return build(config_of(value))


def test_a_config_has_the_defaults_that_a_constructor_inherits():
    saved = config_of(Heir())["init_args"]
    assert saved == {"more": 0, "search": SEARCH, "masks": False, "neck": NECK, "beside": None}
    assert (again(Heir()).size, again(Heir(masks=True)).masks) == (5, True)  # 5 is the heir's, and nobody's option


def test_what_a_constructor_changes_before_it_hands_it_on_is_saved_as_it_was_given():
    class Twice(Neck):
        def __init__(self, channels, *, depth=2, **options):
            super().__init__(channels, depth=2 * depth, **options)

    assert config_of(Twice(1, strides=[4]))["init_args"]["depth"] == 2
    assert config_of(Doubles(search=Search(scale=1.0)))["init_args"]["search"]["scale"] == 1.0


@pytest.mark.parametrize("given", [{"scale": 2.0}, {"masks": {"points": 3}}, {"masks": Masks(points=3)}])
def test_a_mapping_is_a_group_of_options(given):
    for owner in (Owner(search=given), Heir(search=given), again(Owner(search=given)), again(Heir(search=given))):
        scale, points = given.get("scale", 4.0), 3 if "masks" in given else 12
        assert owner.search == Search(scale=scale, masks=Masks(points=points))
    assert Owner(masks={"points": 3}).masks == again(Owner(masks={"points": 3})).masks == Masks(points=3)
    assert Owner(masks=True).masks is True


def test_a_group_refuses_what_it_does_not_know_and_what_is_out_of_range():
    with pytest.raises(UserError, match=r"search has scal; wanted some of masks, scale"):
        Owner(search={"scal": 3})
    with pytest.raises(UserError, match=r"points is 0; wanted a whole number from 1"):
        Owner(search={"masks": {"points": 0}})


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("owner", [Owner, Heir])
def test_a_part_that_its_owner_builds_is_saved_without_the_sizes(owner, width):
    config = {"class_path": f"{__name__}.WideNeck", "init_args": {"width": width, "depth": 4}}
    for neck in (partial(WideNeck, width=width, depth=4), config):
        for made in (owner(neck=neck), again(owner(neck=neck)), again(again(owner(neck=neck)))):
            assert type(made.neck) is WideNeck
            assert (made.neck.width, made.neck.depth, made.neck.channels, made.neck.strides) == (width, 4, 7, [8])
    assert again(owner(neck=None)).neck is None
    assert type(owner(neck=f"{__name__}.WideNeck").neck) is WideNeck


def test_a_part_inside_a_part_is_built():
    owner = again(Owner(beside=Part(1)))
    assert type(owner.beside) is Part and owner.neck.depth == 1


def subclasses(cls):
    yield from (sub for child in cls.__subclasses__() for sub in (child, *subclasses(child)))


def test_every_class_that_a_file_may_name_is_public():
    for name in vitdet.__all__:
        getattr(vitdet, name)  # imports everything
    named = [cls for cls in subclasses(Configurable) if cls.__module__.startswith("vitdet.")]
    # another test may have imported a module a second time
    named = [cls for cls in named if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls]
    bases = {base for cls in named for base in cls.__mro__[1:] if base.__name__ not in vitdet.__all__}
    named = [cls for cls in named if cls not in bases]
    assert len(named) > 12
    for cls in named:
        assert public_path(cls) == f"vitdet.{cls.__name__}" and part(public_path(cls)) is cls
