"""Small data sets whose categories have names."""

import json

import numpy as np
import pytest
from PIL import Image

from vitdet.data import PanopticSplit, Split

SIZE = (32, 48)


@pytest.fixture
def named_split(tmp_path):
    """Makes a split of 48×32 images with an object for each name in the lists; ids as given, else 1, 2, …."""

    def make(name, objects, ids=None, *, first_image=1):
        names = list(dict.fromkeys([*(ids or {}), *(one for row in objects for one in row)]))
        ids = {one: i for i, one in enumerate(names, 1)} | (ids or {})
        (tmp_path / name).mkdir()
        images, annotations = [], []
        for i, row in enumerate(objects, first_image):
            Image.new("RGB", SIZE[::-1], (i, 9, 9)).save(tmp_path / name / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[1], "height": SIZE[0]})
            for k, one in enumerate(row):
                box = [2 + 4 * k, 3, 10, 12 + k]
                annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": ids[one], "bbox": box})
                annotations[-1] |= {"area": box[2] * box[3], "iscrowd": 0}
        categories = [{"id": ids[one], "name": one} for one in names]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return Split(str(tmp_path / name), str(path))

    return make


@pytest.fixture
def named_panoptic(tmp_path):
    """Makes a panoptic split: in each image person 1 (a thing), and grass, field and sky (stuff) side by side."""

    def make(name="p", ids=(1, 10, 11, 12)):
        (tmp_path / name).mkdir()
        images, annotations = [], []
        for i in (1, 2):
            Image.new("RGB", (40, 20)).save(tmp_path / name / f"{i}.jpg")
            png = np.zeros((20, 40, 3), np.uint8)
            for k in range(4):
                png[:, 10 * k : 10 * k + 10, 0] = k + 1
            Image.fromarray(png).save(tmp_path / name / f"{i}.png")
            boxes = [[10 * k, 0, 10, 20] for k in range(4)]
            info = [{"id": k + 1, "category_id": ids[k], "bbox": boxes[k], "area": 200, "iscrowd": 0} for k in range(4)]
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 20})
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
        names = ["person", "grass", "field", "sky"]
        categories = [{"id": n, "name": name, "isthing": int(name == "person")} for n, name in zip(ids, names)]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return PanopticSplit(str(tmp_path / name), str(path), str(tmp_path / name))

    return make
