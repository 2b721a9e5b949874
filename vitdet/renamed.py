"""What files of earlier versions call a class or an option, and what it is called today.

A file names public classes (`vitdet.DETRHead`) and the arguments of their constructors. Where an argument has moved
into a part, its old place stands in `MOVED`, by the class that took it: `"anchor_scale": "selection.anchor_scale"`.
Where its values have changed, too, a function in `CHANGED` turns the old arguments of that class into those of today.
Where several old arguments mean a part only together, so that files which lie on each other may each give some of
them, the function stands in `TOGETHER`, by that part. All leave today's arguments as they are. What derives from a
class has its rules, too, but for arguments of its own that have such a name.
"""

import inspect
from collections.abc import Callable
from typing import Any

from vitdet.errors import UserError

Arguments = dict[str, Any]


class OldOptionError(UserError):
    """An option of an earlier version can't be turned into today's; the message names it, and says what to do."""


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


SIZES = ("embed_dim", "num_heads")


def _sizes(arguments: Arguments) -> Arguments:
    """The ViT's width and heads were options by themselves, which went before those of `model_args`."""
    sizes = {name: arguments[name] for name in SIZES if arguments.get(name) is not None}
    changed = {name: value for name, value in arguments.items() if name not in SIZES}
    return (
        {**changed, "model_args": {**_mapping("model_args", changed.get("model_args")), **sizes}} if sizes else changed
    )


def _neck(arguments: Arguments) -> Arguments:
    return _part(arguments, "neck", NECKS, {"neck_depth": "depth"})


def _stem(arguments: Arguments) -> Arguments:
    return _part(arguments, "stem", STEMS, {"stem_width": "width", "stem_taps": "lateral"})


def _part(arguments: Arguments, name: str, classes: dict[str, str | None], moved: dict[str, str]) -> Arguments:
    """`{stem: conv, stem_width: 8}` becomes `{stem: {class_path: vitdet.ConvStem, init_args: {width: 8}}}`."""
    arguments = dict(arguments)
    inside = {new: arguments.pop(old) for old, new in moved.items() if old in arguments}
    inside.update(_mapping(f"{name}_args", arguments.pop(f"{name}_args", None)))
    value = arguments.get(name, {})
    if isinstance(value, str) and value in classes:
        cls = classes[value]
        value = arguments[name] = None if cls is None else {"class_path": f"vitdet.{cls}", "init_args": {}}
    if inside and isinstance(value, dict):
        given = value.get("init_args") or {}
        if twice := inside.keys() & given.keys():
            new = min(twice)
            old = next((old for old in moved if moved[old] == new), f"{name}_args.{new}")
            raise OldOptionError(f"{old} is now {name}.{new}, and both are given; leave out {old}")
        if value.get("class_path") == "vitdet.SpatialAdapter":
            inside.pop("lateral", None)  # it was true, or an error
        arguments[name] = {**value, "init_args": {**inside, **given}}
    return arguments


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


MASKS = {"mask_branch": "branch", "mask_points": "points"}


def _masks(arguments: Arguments) -> Arguments:
    """`masks`, `mask_branch` and `mask_points` of a detection head are one argument; without masks they say nothing."""
    given = {new: arguments[old] for old, new in MASKS.items() if old in arguments}
    rest = {name: value for name, value in arguments.items() if name not in MASKS}
    if given and isinstance(rest.get("masks"), dict):
        raise OldOptionError("mask_branch and mask_points are now masks.branch and masks.points, and both are given")
    return {**rest, "masks": given} if given and rest.get("masks") is True else rest


def _schedule(arguments: Arguments) -> Arguments:
    shape = arguments.get("schedule")
    return {**arguments, "schedule": {"shape": shape}} if isinstance(shape, str) else arguments


def _data(arguments: Arguments) -> Arguments:
    """What the backbone expects of images is no option of the data: a `Task` says it."""
    return {name: value for name, value in arguments.items() if name not in ("mean", "std", "patch_size")}


CHANGED: dict[str, Callable[[Arguments], Arguments]] = {"ImageData": _data, "Task": _schedule}
TOGETHER: dict[str, dict[str, Callable[[Arguments], Arguments]]] = {
    "Backbone": {"neck": _neck, "stem": _stem, "model_args": _sizes},
    "DETRHead": {"masks": _masks},
}


def renew(config: Any, *, layer: bool = False) -> Any:
    """A config of any version, or the model of a checkpoint, as today's: public class names, options in new places.

    Args:
        layer: it is only one of several that lie on each other; what is meant `TOGETHER` then stays as it is.

    Raises:
        OldOptionError: an option is given at its old place and at its new one, or what holds it is no mapping.
    """
    if isinstance(config, list):
        return [renew(item, layer=layer) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: renew(value, layer=layer) for key, value in config.items()}
    if isinstance(name := config.get("class_path"), str):
        config["class_path"] = _public(name)
        if isinstance(config.get("init_args"), dict):
            config["init_args"] = renew_arguments(config["class_path"], config["init_args"], layer=layer)
    return config


def renew_arguments(class_path: str, arguments: Arguments, *, layer: bool = False) -> Arguments:
    """The arguments of a class, or of one that derives from it, where they are now."""
    lineage, users = _lineage(class_path)
    kept = {name: value for name, value in arguments.items() if name in users}
    arguments = {name: value for name, value in arguments.items() if name not in users}
    for name in lineage:
        changes = [CHANGED.get(name, dict), *([] if layer else TOGETHER.get(name, {}).values())]
        for change in changes:
            arguments = change(arguments)
        for old, new in MOVED.get(name, {}).items():
            if old in arguments:
                arguments = _moved(arguments, old, new)
    return {**arguments, **kept}


def in_one_form(class_path: str | None, base: Arguments, layer: Arguments) -> tuple[Arguments, Arguments]:
    """The arguments of a class in two layers, before one is laid on the other.

    What is meant `TOGETHER` stays in the old form where neither layer has today's, else it is turned into today's, so
    that what the upper layer says counts.

    Args:
        class_path: the class, if it is known.
    """
    lineage, users = (list(TOGETHER), set()) if class_path is None else _lineage(class_path)
    kept = [{name: value for name, value in given.items() if name in users} for given in (base, layer)]
    base, layer = ({name: value for name, value in given.items() if name not in users} for given in (base, layer))
    for name, change in [item for cls in lineage for item in TOGETHER.get(cls, {}).items()]:
        if not isinstance(base.get(name), dict) and not isinstance(layer.get(name), dict):
            continue
        if name == "model_args":
            # the sizes stay by themselves: null there is the model's
            above = layer.get(name) or {}
            base = {key: value for key, value in base.items() if key not in SIZES or key not in above}
        else:
            base, layer = change(base), change(_with_masks(layer) if name == "masks" else layer)
    return {**base, **kept[0]}, {**layer, **kept[1]}


def _with_masks(layer: Arguments) -> Arguments:
    """A layer that lies on one with masks means them by `mask_points`, too."""
    return {"masks": True, **layer} if layer.keys() & MASKS.keys() else layer


def _public(class_path: str) -> str:
    """`vitdet.DETRHead` for any module of vitdet's that the class has ever been in."""
    import vitdet

    name = class_path.rpartition(".")[2]
    known = class_path.startswith("vitdet.") and name in vitdet.__all__
    return f"vitdet.{name}" if known else CLASSES.get(class_path, class_path)


def _lineage(class_path: str) -> tuple[list[str], set[str]]:
    """The class and those that it derives from, by name, and the arguments that a class of the user's adds to them.

    A class of the user's has to be imported for that.
    """
    module, _, name = class_path.rpartition(".")
    if module in ("", "vitdet"):
        return [name, *BASES.get(name, ())], set()
    from vitdet.config import part

    try:
        classes = part(class_path).__mro__
    # a module of the user's may raise anything; who builds the class says what is wrong with it
    except Exception:
        return [], set()
    ours = [cls for cls in classes if cls.__module__.startswith("vitdet.")]
    theirs = [cls for cls in classes if cls not in ours and "__init__" in vars(cls) and issubclass(cls, tuple(ours))]
    added = {name for cls in theirs for name in inspect.signature(cls).parameters}
    return [cls.__name__ for cls in ours], added - set(inspect.signature(ours[0]).parameters)


def _mapping(name: str, value: Any) -> Arguments:
    if not isinstance(value, (dict, type(None))):
        raise OldOptionError(f"{name} is {value!r}; wanted a mapping, its options by name")
    return value or {}


def _moved(arguments: Arguments, old: str, new: str) -> Arguments:
    arguments = dict(arguments)
    value, (*parts, name), inner = arguments.pop(old), new.split("."), arguments
    for part in parts:
        inner[part] = dict(_mapping(part, inner.get(part)))
        inner = inner[part]
    if name in inner:
        raise OldOptionError(f"{old} is now {new}, and both are given; leave out {old}")
    inner[name] = value
    return arguments
