"""The published data sets that `vitdet data get` knows: their files, where these are put, and their terms.

The addresses, sizes and digests are those that the owners and well-known libraries state; each has its source beside
it. A file without a known digest is checked by its size, if that is known, by the checksums inside the archive, and by
the number of files that it gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitdet.data.label_sets import coco


@dataclass(frozen=True)
class Archive:
    """A file of a data set.

    Attributes:
        name: the name of the file.
        gives: the places in the folder of the data set of the files and folders in it, see `archives.unpack`.
        url: where it is published; empty if it can be had only after a login.
        size: its size in bytes; the size that its owner states is `about`, if the exact one is not known.
        about: its approximate size in megabytes (10⁶ bytes).
        unpacked: the approximate size in megabytes of what it gives.
        digest: `sha1:…` or `md5:…`, if somebody publishes it.
    """

    name: str
    gives: Mapping[str, str]
    url: str = ""
    size: int | None = None
    about: int = 0
    unpacked: int = 0
    digest: str | None = None

    @property
    def megabytes(self) -> float:
        return self.about if self.size is None else self.size / 1e6


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: the name for `vitdet data get`.
        title: what it is.
        folder: its folder in the output folder, as the configs expect it.
        archives: its files.
        licence: its terms in short.
        terms: the page with its terms.
        counts: how many files there are under folders of it when it is complete.
        login: how its files are had after a login; empty if none is needed.
        use: the command to use it with.
        writes: the contents of files that its archives lack, by their places in the folder.
    """

    name: str
    title: str
    folder: str
    archives: tuple[Archive, ...]
    licence: str
    terms: str
    counts: Mapping[str, int] = field(default_factory=dict)
    login: str = ""
    use: str = ""
    writes: Mapping[str, str] = field(default_factory=dict)


COCO = "http://images.cocodataset.org"
COCO_LICENCE = "annotations CC BY 4.0; images under Flickr's terms, each one's licence is in the JSON"
COCO_TERMS = "https://cocodataset.org/#termsofuse"
# https://cocodataset.org/#download; the SHA-1s are those of GluonCV (scripts/datasets/mscoco.py), and the sizes those
# of the server
TRAIN2017 = Archive(
    "train2017.zip",
    {"train2017": "train2017"},
    url=f"{COCO}/zips/train2017.zip",
    size=19_336_861_798,
    unpacked=19_400,
    digest="sha1:10ad623668ab00c62c096f0ed636d6aff41faca5",
)
VAL2017 = Archive(
    "val2017.zip",
    {"val2017": "val2017"},
    url=f"{COCO}/zips/val2017.zip",
    size=815_585_330,
    unpacked=820,
    digest="sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41",
)
# of its six files, those of boxes and instance masks
INSTANCES = {
    f"annotations/instances_{split}2017.json": f"annotations/instances_{split}2017.json" for split in ("train", "val")
}
ANNOTATIONS = Archive(
    "annotations_trainval2017.zip",
    INSTANCES,
    url=f"{COCO}/annotations/annotations_trainval2017.zip",
    size=252_907_541,
    unpacked=470,
    digest="sha1:8551ee4bb5860311e79dace7e79cb91e432e78b3",
)
VAL = "annotations/instances_val2017.json"
PANOPTIC = Archive(
    "panoptic_annotations_trainval2017.zip",
    {
        path: place
        for split in ("train", "val")
        for path, place in (
            (f"annotations/panoptic_{split}2017.json", f"annotations/panoptic_{split}2017.json"),
            (
                f"annotations/panoptic_{split}2017.zip!panoptic_{split}2017",
                f"annotations/panoptic_{split}2017",
            ),
        )
    },
    url=f"{COCO}/annotations/panoptic_annotations_trainval2017.zip",
    size=860_725_834,
    unpacked=1_300,
)
IMAGES2017 = {"train2017": 118_287, "val2017": 5_000}
PANOPTIC_PNGS = {f"annotations/panoptic_{split}": count for split, count in IMAGES2017.items()}
CSDOWNLOAD = "pip install cityscapesscripts && csDownload -d {folder} {files}"

SETS = {
    published.name: published
    for published in [
        Published(
            "coco",
            "COCO 2017, 80 classes, boxes and instance masks: 118,287 training and 5,000 validation images",
            "coco",
            (VAL2017, ANNOTATIONS, TRAIN2017),
            COCO_LICENCE,
            COCO_TERMS,
            IMAGES2017,
            use="vitdet test configs/coco/detr_vit_small.yaml --ckpt_path CHECKPOINT",
        ),
        Published(
            "coco-val",
            "the 5,000 validation images of COCO 2017, to score a model on",
            "coco",
            (VAL2017, Archive(**{**vars(ANNOTATIONS), "gives": {VAL: VAL}, "unpacked": 20})),
            COCO_LICENCE,
            COCO_TERMS,
            {"val2017": 5_000},
            use="vitdet test configs/coco/detr_vit_small.yaml --data.train null --ckpt_path CHECKPOINT",
        ),
        Published(
            "coco-panoptic",
            "COCO 2017 with panoptic labels, 133 classes",
            "coco",
            (VAL2017, PANOPTIC, TRAIN2017),
            COCO_LICENCE,
            COCO_TERMS,
            {**IMAGES2017, **PANOPTIC_PNGS},
            use="vitdet test configs/coco/panoptic_vit_small.yaml --ckpt_path CHECKPOINT",
        ),
        Published(
            "ade20k",
            "ADE20K (SceneParse150), a class for each pixel, 150 classes: 20,210 training and 2,000 validation images",
            "ADEChallengeData2016",
            (
                # http://sceneparsing.csail.mit.edu; the SHA-1 is that of GluonCV (scripts/datasets/ade20k.py)
                Archive(
                    "ADEChallengeData2016.zip",
                    {f"ADEChallengeData2016/{part}": part for part in ("images", "annotations")},
                    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                    about=970,
                    unpacked=1_000,
                    digest="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                ),
            ),
            "images for non-commercial research and education; annotations BSD 3-Clause",
            "https://ade20k.csail.mit.edu",
            {
                f"{part}/{split}": count
                for part in ("images", "annotations")
                for split, count in (("training", 20_210), ("validation", 2_000))
            },
            use="vitdet train configs/ade20k/semantic_vit_large.yaml",
        ),
        Published(
            "cityscapes",
            "Cityscapes, a class for each pixel, 19 classes: 2,975 training and 500 validation images",
            "cityscapes",
            (
                # https://www.cityscapes-dataset.com/downloads/ shows names, sizes and MD5s after the login
                Archive(
                    "gtFine_trainvaltest.zip",
                    {"gtFine": "gtFine"},
                    about=241,
                    unpacked=1_100,
                    digest="md5:4237c19de34c8a376e9ba46b495d6f66",
                ),
                Archive(
                    "leftImg8bit_trainvaltest.zip",
                    {"leftImg8bit": "leftImg8bit"},
                    about=11_000,
                    unpacked=11_600,
                    digest="md5:0a6e97e94b616a514066c9e2adb0c97f",
                ),
            ),
            "non-commercial, no redistribution",
            "https://www.cityscapes-dataset.com/license/",
            {
                f"{part}/{split}": count * each
                for part, each in (("leftImg8bit", 1), ("gtFine", 4))
                for split, count in (("train", 2_975), ("val", 500))
            },
            login="register at https://www.cityscapes-dataset.com, and fetch them from its page of downloads, or with "
            f"the authors' program, which asks for your name and password: `{CSDOWNLOAD}`",
            use="vitdet train configs/cityscapes/semantic_vit_large.yaml",
        ),
        Published(
            "voc2012",
            "Pascal VOC 2012, 20 classes, boxes: 5,717 training and 5,823 validation images",
            "VOCdevkit",
            (
                # the address and the MD5 are those of torchvision (datasets/voc.py)
                Archive(
                    "VOCtrainval_11-May-2012.tar",
                    {"VOCdevkit/VOC2012": "VOC2012"},
                    url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                    about=2_000,
                    unpacked=2_000,
                    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
                ),
            ),
            "images under Flickr's terms",
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            {"VOC2012/JPEGImages": 17_125, "VOC2012/Annotations": 17_125},
            use="vitdet train configs/custom.yaml --data {folder}/VOC2012",
        ),
        Published(
            "coco128",
            "the first 128 training images of COCO, 80 classes, boxes in YOLO's format, to try things out",
            "coco128",
            (
                # https://docs.ultralytics.com/datasets/detect/coco128/
                Archive(
                    "coco128.zip",
                    {"coco128/images": "images", "coco128/labels": "labels"},
                    url="https://github.com/ultralytics/assets/releases/download/v0.0.0/coco128.zip",
                    about=7,
                    unpacked=7,
                ),
            ),
            COCO_LICENCE.partition(",")[0],
            "https://docs.ultralytics.com/datasets/detect/coco128/",
            {"images": 128},
            use="vitdet train configs/custom.yaml --data {folder}",
            # the archive does not have the names of the classes; its labels count them in COCO's order
            writes={"data.yaml": f"train: images/train2017\nval: images/train2017\nnames: {coco.CLASSES}\n"},
        ),
        Published(
            "bccd",
            "blood cells under the microscope, 3 classes, 364 images with boxes in Pascal VOC's format",
            "bccd",
            (
                # https://github.com/Shenggan/BCCD_Dataset; an archive that GitHub makes has no fixed digest
                Archive(
                    "BCCD_Dataset-master.zip",
                    {f"BCCD_Dataset-master/BCCD/{part}": part for part in ("Annotations", "ImageSets", "JPEGImages")},
                    url="https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip",
                    about=8,
                    unpacked=8,
                ),
            ),
            "MIT",
            "https://github.com/Shenggan/BCCD_Dataset",
            {"JPEGImages": 364, "Annotations": 364},
            use="vitdet train configs/custom.yaml --data {folder}",
        ),
    ]
}
