"""Masks of every data set: they lie on their objects' pixels after any augmentation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from vitdet.data import (
    CocoData,
    PanopticData,
    SemanticData,
    SemanticSplit,
    ShapesData,
    ShapesPanopticData,
    ShapesSemanticData,
    Split,
)
from vitdet.data.options import Reading
from vitdet.errors import DataError
from vitdet.masks import VOID
from vitdet.metrics.ground_truth import NO_MASK, GroundTruth

PLAIN = {"batch_size": 4, "scale_jitter": (1.0, 1.0), "train_transforms": []}
HARD = {
    "batch_size": 4,
    "scale_jitter": (0.6, 2.0),
    "train_transforms": ["HorizontalFlip", {"Affine": {"scale": [0.7, 1.4], "rotate": [-30, 30], "p": 1.0}}],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes") / "shapes")


def make(kind, root, **options):
    data = kind(root=root, train_images=12, val_images=3, **options)
    data.masks = True
    return data


def targets_of(data):
    return [(image, target) for images, targets in data.train_dataloader() for image, target in zip(images, targets)]


@pytest.mark.parametrize("kind", [ShapesData, ShapesPanopticData, ShapesSemanticData])
def test_targets_hold_one_mask_for_each_label(kind, root):
    for image, target in targets_of(make(kind, root, **HARD, augmentation={"mosaic": 0.3})):
        assert target.masks.dtype == torch.bool and target.masks.shape == (len(target.labels), *image.shape[1:])
        assert target.masks.flatten(1).any(1).all()  # none is empty
        if kind is not ShapesData:
            assert (target.masks.sum(0) <= 1).all()  # a pixel has one segment


def test_instance_masks_are_those_of_pycocotools(root):
    data = make(ShapesData, root, **PLAIN)
    coco = COCO(str(data.index("train").path))
    for _, target in targets_of(data):
        truth = [coco.annToMask(a) for a in coco.imgToAnns[target.image_id]]
        assert np.array_equal(target.masks.numpy(), np.stack(truth).astype(bool))


@pytest.mark.parametrize("options", [HARD, {**HARD, "augmentation": {"mosaic": 1.0}}, {**PLAIN, "size": 70}])
def test_boxes_bound_their_masks(root, options):
    seen = 0
    for image, target in targets_of(make(ShapesData, root, **options)):
        height, width = image.shape[1:]
        centre, size = target.boxes_cxcywh.split(2, dim=1)
        boxes = torch.cat([centre - size / 2, centre + size / 2], 1) * torch.tensor([width, height] * 2)
        for box, mask in zip(boxes, target.masks):
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            tight = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            # the box of a rotated object would be too large, but boxes are clipped to their masks, so each side is at
            # most a pixel too far out
            assert (box[:2] >= tight[:2] - 1.01).all() and (box[2:] <= tight[2:] + 1.01).all()
            seen += 1
    assert seen > 20


def test_panoptic_segments_cover_the_image_and_agree_with_the_semantic_labels(root):
    panoptic = {t.image_id: t for _, t in targets_of(make(ShapesPanopticData, root, **PLAIN))}
    semantic = {t.image_id: t for _, t in targets_of(make(ShapesSemanticData, root, **PLAIN))}
    for image_id, target in panoptic.items():
        assert (target.masks.sum(0) == 1).all()
        by_class = (target.labels.view(-1, 1, 1) * target.masks).sum(0)
        other = semantic[image_id - 1]  # ids there are positions
        assert torch.equal(by_class, (other.labels.view(-1, 1, 1) * other.masks).sum(0))


@pytest.mark.parametrize(("kind", "wrong"), [(CocoData, "panoptic"), (PanopticData, "instances")])
def test_a_file_of_the_other_kind_is_refused_with_the_data_class_to_use(root, kind, wrong):
    ShapesData(root=root, train_images=12, val_images=3)
    split = {"images": f"{root}/train", "annotations": f"{root}/annotations/{wrong}_train.json"}
    other = PanopticData if kind is CocoData else CocoData
    with pytest.raises(ValueError, match=f"data.train.annotations.*{wrong}_train.json.*{other.__name__}"):
        kind(train=split if kind is CocoData else {**split, "segments": f"{root}/panoptic_train"})


def test_a_300_object_image_is_decoded_at_the_size_needed(tmp_path):
    Image.new("RGB", (1000, 800)).save(tmp_path / "a.png")
    boxes = [(10 + 30 * (i % 30), 10 + 70 * (i // 30)) for i in range(300)]
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x, y, 20, 60],
            "area": 1200,
            "iscrowd": 0,
            "segmentation": [[x, y, x + 20, y, x + 20, y + 60, x, y + 60]],
        }
        for i, (x, y) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 1000, "height": 800}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = CocoData(train=Split(str(tmp_path), str(tmp_path / "a.json")), size=100, **PLAIN)
    data.masks = True
    ((_, target),) = targets_of(data)
    assert target.masks.shape == (300, 80, 100) and target.masks.flatten(1).sum(1).float().mean() == pytest.approx(
        12, abs=1.5
    )


def write_pair(folder, name, labels, *, suffix="", palette=False):
    (folder / "images").mkdir(exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    Image.new("RGB", labels.shape[::-1]).save(folder / "images" / f"{name}.jpg")
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")
        image.putpalette(list(range(256)) * 3)
        image.putdata(labels.flatten())
    image.save(folder / "labels" / f"{name}{suffix}.png")


@pytest.mark.parametrize("palette", [False, True])
def test_label_maps_with_any_values(tmp_path, palette):
    labels = np.array([[7, 7, 30], [0, 30, 255]], np.uint8)
    write_pair(tmp_path, "a", labels, suffix="_labelIds", palette=palette)
    split = SemanticSplit(str(tmp_path / "images"), str(tmp_path / "labels"))
    options = {"values": [7, 30], "label_suffix": "_labelIds.png", "image_suffix": ".jpg"}
    data = SemanticData(train=split, classes=["road", "car"], **options, **PLAIN)
    data.masks = True
    assert data.index("train").labels(0).tolist() == [[0, 0, 1], [VOID, 1, VOID]]
    ((_, target),) = targets_of(data)
    assert target.labels.tolist() == [0, 1]
    assert target.masks.int().tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 1, 0]]]


def test_known_sets_of_classes_go_by_their_name(tmp_path):
    write_pair(tmp_path, "a", np.full((4, 4), 33, np.uint8))
    split = SemanticSplit(str(tmp_path / "images"), str(tmp_path / "labels"))
    data = SemanticData(train=split, classes="cityscapes")
    assert data.classes[0] == "road" and data.classes[-1] == "bicycle" and len(data.classes) == 19
    assert (data.truth("train")(0) == 18).all()  # 33 are bicycles
    with pytest.raises(ValueError, match="did you mean ade20k"):
        SemanticData(train=split, classes="ADE20k")
    with pytest.raises(ValueError, match=r"leave out data\.values"):
        SemanticData(train=split, classes="ade20k", values=list(range(150)))


def test_label_maps_that_do_not_fit(tmp_path):
    write_pair(tmp_path, "a", np.zeros((4, 4), np.uint8))
    images, labels = str(tmp_path / "images"), str(tmp_path / "labels")
    with pytest.raises(FileNotFoundError, match="share their name"):
        SemanticData(train=SemanticSplit(images, labels), classes=["a"], label_suffix="_x.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "labels" / "a.png")
    data = SemanticData(train=SemanticSplit(images, labels), classes=["a"])
    with pytest.raises(ValueError, match="one value a pixel"):
        data.index("train").labels(0)
    with pytest.raises(ValueError, match="must pair"):
        SemanticData(train=SemanticSplit(images, labels), classes=["a", "b"], values=[1])
    with pytest.raises(ValueError, match=r"values has -1; a label map holds 0\.\.255"):
        SemanticData(train=SemanticSplit(images, labels), classes=["a", "b", "c"], values=[1, -1, 30])


def masks_of(tmp_path, *segmentations, **options):
    """Data with one image, and an object for each segmentation, of which `...` stands for none."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    annotation = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 6], "area": 48, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [
            {**annotation, "id": 77 + n} | ({} if segmentation is ... else {"segmentation": segmentation})
            for n, segmentation in enumerate(segmentations)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = Split(str(tmp_path), str(tmp_path / "a.json"))
    data = CocoData(train=split, val=split, **PLAIN, **options)
    data.masks = True
    return data


SQUARE = [[0, 0, 6, 0, 6, 6, 0, 6]]
BROKEN = [
    [[1, 2]],
    {"size": [3, 3], "counts": "09"},
    {"size": [6, 8]},
    [0, 0, 5, 0, 5, 5],
    "a",
    [[1, 1, 6, 1, 6, 6, float("nan"), 5]],
    [[1, 1, 6, 1, 6, 6, None, 5]],
    [[1, 1, 6, 1, 6, 6, 2e9, 5]],
    [[-1.6e2, 1, 6, 1, 6, 6, 3.5e8, 5]],
    [[1, 1, 6, 1, 6, 6, 5]],
    {"size": [6, 8], "counts": [40, 9]},
]


@pytest.mark.parametrize("segmentation", BROKEN)
def test_an_annotation_whose_mask_cannot_be_read_is_named_at_the_start(tmp_path, segmentation):
    data = masks_of(tmp_path, SQUARE, segmentation)
    named = r"a\.json: annotation 78: .*\(image 'a\.png'\); .*on_bad_image: skip"
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(DataError, match=named):
            loader()


@pytest.mark.parametrize("segmentation", [..., None, [], [[]], {}, *BROKEN])
def test_an_object_without_a_mask_is_left_out_and_the_others_are_kept(tmp_path, segmentation):
    """By the same rule in training, validation and evaluation, each with a line that says so."""
    data = masks_of(tmp_path, SQUARE, segmentation, reading=Reading(on_bad_image="skip"))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        ((_, (target,)),) = loader
        assert len(target.labels) == 1 and (target.masks is None or target.masks.shape == (1, 6, 8))
    (said,) = data.index("train").mask_notes()
    assert "1 annotations have " in said and "left out of training and scoring of masks" in said
    truth = GroundTruth.read(data.index("val"), masks=True)
    assert len(truth.image) == 1 and truth.notes[NO_MASK] == 1


@pytest.mark.parametrize("segmentation", [..., None, []])
def test_without_any_mask_there_is_nothing_to_train_on(tmp_path, segmentation):
    with pytest.raises(DataError, match="no mask to train on .1 annotations have no mask"):
        masks_of(tmp_path, segmentation).train_dataloader()


@pytest.mark.parametrize("kind", [ShapesData, ShapesPanopticData])
def test_crops_are_no_larger_than_asked_for_and_boxes_bound_what_shows(kind, root):
    data = make(kind, root, **(PLAIN | {"scale_jitter": (0.5, 2.0)}), augmentation={"crop": (64, 80)})
    for image, target in targets_of(data):
        height, width = image.shape[1:]
        assert height <= 64 and width <= 80 and target.size == (height, width)
        assert target.masks.shape[1:] == (height, width) and target.masks.flatten(1).any(1).all()
    assert max(data._tokens("train")) <= 4 * 5


def test_crowds_and_void_are_no_objects(tmp_path):
    ids = np.zeros((6, 8), np.int32)
    ids[:3], ids[3:, :4], ids[3:, 4:] = 5, 70000, 0
    pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    for folder in ("images", "panoptic"):
        (tmp_path / folder).mkdir()
    Image.fromarray(pixels).save(tmp_path / "panoptic" / "a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.png")
    segments = [
        {"id": 5, "category_id": 9, "bbox": [0, 0, 8, 3], "area": 24, "iscrowd": 0},
        {"id": 70000, "category_id": 4, "bbox": [0, 3, 4, 3], "area": 12, "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 3, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 4, "name": "dog", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = {
        "images": str(tmp_path / "images"),
        "annotations": str(tmp_path / "a.json"),
        "segments": str(tmp_path / "panoptic"),
    }
    data = PanopticData(train=split, val=split, **PLAIN)
    data.masks = True
    assert data.classes == ["dog", "sky"] and data.things == [True, False]
    ((_, target),) = targets_of(data)
    assert target.labels.tolist() == [1] and target.masks.sum() == 24
    truth, numbers, labels, crowd = data.truth("val")(3)
    assert np.array_equal(truth, ids) and numbers.tolist() == [5, 70000] and labels.tolist() == [1, 0]
    assert crowd.tolist() == [False, True]
