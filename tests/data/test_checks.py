"""Numbers out of range are refused by the constructor that takes them, in one sentence."""

import pytest

from vitdet.config import build, config_of
from vitdet.data import (
    Augmentation,
    CocoData,
    PanopticData,
    Reading,
    SemanticData,
    ShapesData,
    ShapesPanopticData,
    ShapesSemanticData,
)
from vitdet.data.sampler import BatchSampler, EvalBatchSampler
from vitdet.errors import UserError
from vitdet.progress import Progress

NAN, INF = float("nan"), float("inf")
WRONG = {
    "size": (
        0, -5, 0.5, "large", True,
        {"square": 0}, {"long_side": -1}, {"short_side": 0}, {"square": 2.5}, {"side": 4}, [320],
    ),
    "batch_size": (0, -1, 2.5, "8", True),
    "max_tokens": (0, -1, 1.5),
    "eval_batch_size": (0, -1, 2.5),
    "scale_jitter": ((1.5, 0.5), (0, 1), (-1, 1), (NAN, 1), (1, INF), (1.0,), 1.0),
    "batch_scale": ((1.5, 0.5), (0, 1), (-1, 1), (0.5, NAN), "half"),
    "crop": ((0, 10), (10,), (-1, 5), (2.5, 5), 0, [], 64),
    "mosaic": (-0.1, 1.1, NAN, "often"),
    "mosaic_until": (-0.1, 2),
    "mixup": (-0.1, 1.1, True),
    "mixup_until": (-0.1, 2, "half"),
    "copy_paste": (-0.1, 1.1, NAN),
    "copy_paste_until": (-0.1, 2),
    "num_workers": (-1, 1.5, True),
    "seed": (-1, 0.5),
    "on_bad_image": ("ignore", None),
    "reduce_large": (1, None),
    "resample": ("nearest",),
}  # fmt: skip
PARTS = {"augmentation": Augmentation, "reading": Reading}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_data(coco_split, name, value):
    part = next((part for part, kind in PARTS.items() if name in kind.__dataclass_fields__), None)
    with pytest.raises(UserError, match=rf"^{name}.* is .*(; wanted |; choose)") as error:
        CocoData(val=coco_split(2), **({name: value} if part is None else {part: {name: value}}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [ShapesData, ShapesPanopticData, ShapesSemanticData])
@pytest.mark.parametrize(
    ("name", "value"), [("train_images", 0), ("train_images", -1), ("val_images", 0), ("val_images", 2.5)]
)
def test_shapes(tmp_path, kind, name, value):
    with pytest.raises(UserError, match=rf"^{name} is {value}; wanted a whole number from 1"):
        kind(root=str(tmp_path / "shapes"), **{name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("max_tokens", 0), ("max_tokens", -3), ("scales", (2, 1)), ("seed", -1)]
)
def test_samplers(name, value):
    with pytest.raises(UserError, match=rf"^{name} is .*; wanted "):
        usual = {"batch_size": 8, "max_tokens": None, "scales": (1.0, 1.0), "progressive": False, "seed": 0}
        BatchSampler([1, 2], **{**usual, name: value}, progress=Progress())
    with pytest.raises(UserError, match="batch_size is 0; wanted"):
        EvalBatchSampler([1, 2], batch_size=0)


def test_the_usual_edges_are_in_range(coco_split):
    augmentation = {"mosaic": 1, "mosaic_until": 0.0, "crop": [1, 1], "batch_scale": (2.0, 2.0)}
    data = {"augmentation": augmentation, "scale_jitter": [0.1, 0.1], "num_workers": 0}
    CocoData(val=coco_split(2), max_tokens=1, eval_batch_size=1, size={"square": 1}, **data)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ShapesData, {"size": 64, "augmentation": {"mosaic": 0.5}}),
        (ShapesPanopticData, {"size": {"square": 32}, "train_transforms": [{"HorizontalFlip": {"p": 1.0}}]}),
        (ShapesSemanticData, {"augmentation": {"crop": (32, 48)}, "eval_batch_size": 2}),
    ],
)
def test_a_data_module_is_built_again_from_its_config(tmp_path, kind, given):
    own = kind(root=str(tmp_path / "shapes"), train_images=3, val_images=2, **given)
    config = config_of(own)
    again = build(config)
    assert type(again) is kind and config_of(again) == config and again.describe() == own.describe()
    shapes = own.splits["train"]
    names = {ShapesData: CocoData, ShapesPanopticData: PanopticData, ShapesSemanticData: SemanticData}
    options = {"classes": own.classes} if kind is ShapesSemanticData else {}
    explicit = names[kind](train=shapes, val=own.splits["val"], **options, **given)
    config = config_of(explicit)
    assert config["init_args"]["train"] == vars(shapes)  # a plain dict
    assert build(config).splits == explicit.splits and build(config).describe() == explicit.describe()
