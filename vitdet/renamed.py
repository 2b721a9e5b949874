"""The names of classes and options in files of earlier versions, and their names today.

A file names public classes (`vitdet.DETRHead`) and the arguments of their constructors. For an argument that has moved
into a part, `MOVED` has the old and the new place, by the class that took it: `"anchor_scale":
"selection.anchor_scale"`. If its values have changed, too, a function in `CHANGED` converts the old arguments of that
class to those of today; it runs before `MOVED`, and does not change arguments of today. The rules of a class also hold
for its subclasses.
"""

from collections.abc import Callable
from typing import Any

from vitdet.errors import UserError

Arguments = dict[str, Any]

# the class paths of format 2, which named private modules
CLASSES = {
    "vitdet.backbone.vit.Backbone": "vitdet.Backbone",
    "vitdet.heads.deim.head.DEIMHead": "vitdet.DEIMHead",
    "vitdet.heads.detr.head.DETRHead": "vitdet.DETRHead",
    "vitdet.heads.detr.plain.PlainDETRHead": "vitdet.PlainDETRHead",
    "vitdet.heads.mask.decoder.MaskDecoderHead": "vitdet.MaskDecoderHead",
    "vitdet.heads.mask.eomt.EoMTHead": "vitdet.EoMTHead",
    "vitdet.heads.semantic.SemanticHead": "vitdet.SemanticHead",
    "vitdet.data.sets.CocoData": "vitdet.CocoData",
    "vitdet.data.sets.PanopticData": "vitdet.PanopticData",
    "vitdet.data.sets.SemanticData": "vitdet.SemanticData",
    "vitdet.data.sets.ShapesData": "vitdet.ShapesData",
    "vitdet.data.sets.ShapesPanopticData": "vitdet.ShapesPanopticData",
    "vitdet.data.sets.ShapesSemanticData": "vitdet.ShapesSemanticData",
    "vitdet.data.transforms.Size": "vitdet.Size",
    "vitdet.training.ema.EMA": "vitdet.training.EMA",
    "vitdet.training.best.BestCheckpoint": "vitdet.training.callbacks.BestCheckpoint",
    "vitdet.training.checkpoint.LastCheckpoint": "vitdet.training.callbacks.LastCheckpoint",
    "vitdet.training.progress.ProgressReport": "vitdet.training.callbacks.ProgressReport",
}
BASES = {
    **dict.fromkeys(("MaskDecoderHead", "EoMTHead"), ("QueryMaskHead",)),
    **dict.fromkeys(("CocoData", "PanopticData", "SemanticData"), ("ImageData",)),
    **dict.fromkeys(("ShapesData", "ShapesPanopticData", "ShapesSemanticData"), ("ImageData",)),
}
NECKS = {"projector": "Projector", "pyramid": "Pyramid", "csp": "CSPNeck", "hybrid": "HybridNeck"}
STEMS = {"patch": None, "conv": "ConvStem", "adapter": "SpatialAdapter"}


def _backbone(arguments: Arguments) -> Arguments:
    """Neck and stem were given by name, with separate arguments for their options, as was the width of the ViT."""
    sizes = {name: arguments[name] for name in ("embed_dim", "num_heads") if arguments.get(name) is not None}
    changed = {name: value for name, value in arguments.items() if name not in ("embed_dim", "num_heads")}
    if sizes:
        changed["model_args"] = {**(changed.get("model_args") or {}), **sizes}
    _part(changed, "neck", NECKS, {"neck_depth": "depth"})
    _part(changed, "stem", STEMS, {"stem_width": "width", "stem_taps": "lateral"})
    return changed


def _part(arguments: Arguments, name: str, classes: dict[str, str | None], moved: dict[str, str]) -> None:
    """`{stem: conv, stem_width: 8}` becomes `{stem: {class_path: vitdet.ConvStem, init_args: {width: 8}}}`."""
    inside = {new: arguments.pop(old) for old, new in moved.items() if old in arguments}
    inside.update(arguments.pop(f"{name}_args", None) or {})
    value = arguments.get(name, {})
    if isinstance(value, str) and value in classes:
        cls = classes[value]
        value = arguments[name] = None if cls is None else {"class_path": f"vitdet.{cls}", "init_args": {}}
    if inside and isinstance(value, dict):
        if value.get("class_path") == "vitdet.SpatialAdapter":
            # for this stem every value but true was an error
            inside.pop("lateral", None)
        arguments[name] = {**value, "init_args": {**inside, **(value.get("init_args") or {})}}


TRUNK = (
    "windows",
    "global_blocks",
    "window_prefix",
    "relative_position",
    "pos_antialias",
    "canvas",
    "grad_checkpointing",
)
MOVED: dict[str, dict[str, str]] = {
    "Backbone": {name: f"trunk.{name}" for name in TRUNK},
    "DETRHead": {
        "num_heads": "decoder.num_heads",
        "cross_heads": "decoder.cross_heads",
        "num_points": "decoder.num_points",
        "ffn_dim": "decoder.ffn_dim",
        "dropout": "decoder.dropout",
        "refine": "decoder.refine",
        "content": "selection.content",
        "learned_reference": "selection.learned_reference",
        "group_proposals": "selection.per_group",
        "anchor_scale": "selection.anchor_scale",
        "anchor_fraction": "selection.anchor_fraction",
        "anchor_margin": "selection.anchor_margin",
        "distinct": "selection.distinct",
    },
    "ImageData": {
        **{name: f"augmentation.{name}" for name in ("crop", "batch_scale", "progressive", "mosaic", "mosaic_until")},
        **{name: f"reading.{name}" for name in ("exif", "on_bad_image")},
    },
    "Task": {"warmup": "schedule.warmup", "final_lr": "schedule.final"},
    "QueryMaskHead": {
        "max_detections": "rules.max_detections",
        "threshold": "rules.threshold",
        "overlap": "rules.overlap",
        "two_step": "rules.two_step",
    },
}


def _masks(arguments: Arguments) -> Arguments:
    """`masks`, `mask_branch` and `mask_points` of a detection head are now a single argument, `masks`."""
    names = {"mask_branch": "branch", "mask_points": "points"}
    given = {new: arguments[old] for old, new in names.items() if old in arguments}
    rest = {name: value for name, value in arguments.items() if name not in names}
    if not given or rest.get("masks") is False:
        return rest
    if isinstance(rest.get("masks"), dict):
        raise UserError("mask_branch and mask_points are now masks.branch and masks.points, and both are given")
    return {**rest, "masks": given}


def _schedule(arguments: Arguments) -> Arguments:
    shape = arguments.get("schedule")
    return {**arguments, "schedule": {"shape": shape}} if isinstance(shape, str) else arguments


def _data(arguments: Arguments) -> Arguments:
    """Mean, standard deviation and patch size are no longer options of the data: a `Task` takes them from the model."""
    return {name: value for name, value in arguments.items() if name not in ("mean", "std", "patch_size")}


CHANGED: dict[str, Callable[[Arguments], Arguments]] = {
    "Backbone": _backbone,
    "DETRHead": _masks,
    "ImageData": _data,
    "Task": _schedule,
}


def renew(config: Any) -> Any:
    """A config of any version, or the model in a checkpoint, with today's names of classes and places of options.

    Raises:
        UserError: an option is given at its old place and at its new one.
    """
    if isinstance(config, list):
        return [renew(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: renew(value) for key, value in config.items()}
    if isinstance(name := config.get("class_path"), str):
        config["class_path"] = CLASSES.get(name, name)
        if isinstance(config.get("init_args"), dict):
            config["init_args"] = renew_arguments(config["class_path"], config["init_args"])
    return config


def renew_arguments(class_path: str, arguments: Arguments) -> Arguments:
    """The arguments of a class, or of a subclass, with today's names and places."""
    for name in _lineage(class_path):
        arguments = CHANGED.get(name, dict)(arguments)
        for old, new in MOVED.get(name, {}).items():
            if old in arguments:
                arguments = _moved(arguments, old, new)
    return arguments


def _lineage(class_path: str) -> list[str]:
    """The names of the class and of its base classes in vitdet; a user's class is imported to find them."""
    module, _, name = class_path.rpartition(".")
    if module in ("", "vitdet"):
        return [name, *BASES.get(name, ())]
    from vitdet.config import part

    try:
        return [cls.__name__ for cls in part(class_path).__mro__ if cls.__module__.startswith("vitdet.")]
    # a user's module may raise any exception; it is reported when the class is built
    except Exception:
        return []


def _moved(arguments: Arguments, old: str, new: str) -> Arguments:
    arguments = dict(arguments)
    value, (*parts, name), inner = arguments.pop(old), new.split("."), arguments
    for part in parts:
        inner[part] = dict(inner.get(part) or {})
        inner = inner[part]
    if name in inner:
        raise UserError(f"{old} is now {new}, and both are given; leave out {old}")
    inner[name] = value
    return arguments
