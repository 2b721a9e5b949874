"""Writing the labels of a folder as COCO JSON: instances, panoptic labels with their PNGs, and label maps as panoptic
labels in which each class is one segment.

H×W stands for the size of an image in pixels.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vitdet.annotations.json_text import read_json
from vitdet.data.formats.find import find
from vitdet.data.formats.found import Found
from vitdet.data.formats.tree import checked_folder
from vitdet.errors import DataError, UserError
from vitdet.images import resolve
from vitdet.masks import VOID, bounds, id_png

if TYPE_CHECKING:
    from vitdet.data.module import SplitName

Say = Callable[[str], None]


def convert(folder: str | Path, out: str | Path, *, copy: bool = False, say: Say = print, **reading: Any) -> None:
    """Writes COCO JSON for a folder of labelled images of any layout that `vitdet.data.open` recognises.

    Args:
        folder: the folder of the data.
        out: the folder to write, which must not be there yet: `annotations/instances_{split}.json`, or
            `annotations/panoptic_{split}.json` with a folder of PNGs of the same name.
        copy: whether the images are copied to `{split}/`. If not, file names are relative to the folder where they are.
        say: takes a line about what was recognised and written.
        reading: `kind`, `layout` and `val_fraction`, as `vitdet.data.formats.find` takes them.

    Raises:
        UserError: `out` is there, or the folder is not recognised, or its labels can't be used.

    Example:
        >>> from vitdet.data.shapes import make_shapes
        >>> convert(make_shapes("few", train=2, val=1), "coco", kind="instances", say=lambda line: None)
        >>> sorted(path.name for path in Path("coco/annotations").iterdir())
        ['instances_train.json', 'instances_val.json']
    """
    folder, out = checked_folder(folder), Path(out)
    _check_free(folder, out)
    found = find(folder, **reading)
    for line in found.lines:
        say(line)
    out.parent.mkdir(parents=True, exist_ok=True)
    # under another name until it is whole
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        (draft / "annotations").mkdir()
        for split in found.splits:
            WRITERS[found.kind](found, split, draft, out, copy, say)
        os.chmod(draft, 0o755)
        os.rename(draft, out)
    except OSError as error:
        raise UserError(f"{error.filename or out} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if copy:
        say(f"--data {out} trains on it")


def _check_free(folder: Path, out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} is there already; give a new folder, or remove it")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} lies in {folder}, which would then hold its labels twice; give a folder outside of it")


def _write_instances(found: Found, split: str, draft: Path, out: Path, copy: bool, say: Say) -> None:
    files: Any = found.splits[split]
    content = read_json(files.annotations, "annotation file")
    if copy:
        _copy_images(content["images"], files.images, draft / split, say)
    name = f"annotations/instances_{split}.json"
    _write_json(draft / name, content)
    counts = f"{len(content['images'])} images, {len(content.get('annotations', []))} objects"
    say(f"wrote {out / name}: {counts}" + ("" if copy else _keys(split, files.images, out / name)))


def _write_panoptic(found: Found, split: str, draft: Path, out: Path, copy: bool, say: Say) -> None:
    files: Any = found.splits[split]
    content = read_json(files.annotations, "annotation file")
    if copy:
        _copy_images(content["images"], files.images, draft / split, say)
    name = f"annotations/panoptic_{split}"
    for item in content["annotations"]:
        _copy(resolve(Path(files.segments), item["file_name"]), draft / name / item["file_name"])
    _write_json(draft / f"{name}.json", content)
    say(
        f"wrote {out / name}.json: {len(content['images'])} images, and their PNGs beside it"
        + ("" if copy else _keys(split, files.images, out / f"{name}.json", segments=True))
    )


def _write_semantic(found: Found, split: str, draft: Path, out: Path, copy: bool, say: Say) -> None:
    """Label maps in COCO's panoptic format: a segment for each class of an image, none of which can be counted."""
    # the splits of a data module have these three names
    index: Any = found.module(**found.arguments).index(cast("SplitName", split))
    files: Any = found.splits[split]
    name = f"annotations/panoptic_{split}"
    say(f"writing {len(index)} label maps as PNGs of segments")
    images, annotations = [], []
    for i, file_name in enumerate(index.file_names):
        labels = index.labels(i)
        height, width = labels.shape
        images.append({"id": i + 1, "file_name": file_name, "width": width, "height": height})
        png = f"{os.path.splitext(file_name)[0]}.png"
        (draft / name / png).parent.mkdir(parents=True, exist_ok=True)
        # segments count from 1, and 0 is void
        (draft / name / png).write_bytes(id_png(np.where(labels == VOID, 0, labels.astype(np.int32) + 1)))
        segments = [_segment(labels, int(label), index.category_ids) for label in np.unique(labels) if label != VOID]
        annotations.append({"image_id": i + 1, "file_name": png, "segments_info": segments})
    if copy:
        _copy_images(images, files.images, draft / split, say)
    pairs = zip(index.category_ids, index.names)
    categories = [{"id": number, "name": title, "isthing": 0} for number, title in pairs]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write_json(draft / f"{name}.json", content)
    say(
        f"wrote {out / name}.json: {len(images)} images, in COCO's panoptic format, in which each class is a segment"
        + ("" if copy else _keys(split, files.images, out / f"{name}.json", segments=True))
    )


WRITERS = {"instances": _write_instances, "panoptic": _write_panoptic, "semantic": _write_semantic}


def _segment(labels: np.ndarray, label: int, ids: Sequence[int]) -> dict[str, Any]:
    mask = labels == label
    x0, y0, x1, y1 = bounds(mask[None])[0].tolist()
    box = [int(value) for value in (x0, y0, x1 - x0, y1 - y0)]
    return {"id": label + 1, "category_id": ids[label], "bbox": box, "area": int(mask.sum()), "iscrowd": 0}


def _keys(split: str, images: str, annotations: Path, *, segments: bool = False) -> str:
    words = [f"--data.{split}.images {images}", f"--data.{split}.annotations {annotations}"]
    words += [f"--data.{split}.segments {annotations.with_suffix('')}"] if segments else []
    return f"; {' '.join(words)} reads it"


def _copy_images(images: list[dict[str, Any]], root: str, place: Path, say: Say) -> None:
    """Copies images, and shortens their names by the folders that all of them have in common."""
    say(f"copying {len(images)} images")
    sources = [resolve(root, image["file_name"]) for image in images]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(images)} images are missing, such as {missing[0]}")
    common = os.path.commonpath([path.parent for path in sources]) if sources else root
    for image, source in zip(images, sources):
        image["file_name"] = Path(os.path.relpath(source, common)).as_posix()
        _copy(source, place / image["file_name"])


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _write_json(path: Path, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
