"""A small COCO data set on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from vitdet.data import Split


@pytest.fixture
def coco_split(tmp_path):
    """Makes images and a COCO JSON: two categories with ids 7 and 3, some images empty, one crowd, one empty box."""

    def make(count=7, name="train", sizes=((48, 64), (64, 40), (33, 50)), seed=0):
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        folder.mkdir()
        images, annotations = [], []
        for i in range(count):
            h, w = sizes[i % len(sizes)]
            Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(folder / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": w, "height": h})
            for _ in range(i % 3):
                x, y = rng.uniform(0, w / 2), rng.uniform(0, h / 2)
                box = [x, y, rng.uniform(4, w / 2), rng.uniform(4, h / 2)]
                annotations.append(
                    {"image_id": 100 + i, "category_id": int(rng.choice([3, 7])), "bbox": box, "iscrowd": 0}
                )
        annotations.append({"image_id": 100, "category_id": 3, "bbox": [0, 0, 20, 20], "iscrowd": 1})
        annotations.append({"image_id": 100, "category_id": 3, "bbox": [5, 5, 0, 9], "iscrowd": 0})
        for number, annotation in enumerate(annotations):
            annotation.update(id=2**40 + number, area=annotation["bbox"][2] * annotation["bbox"][3])
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return Split(str(folder), str(path))

    return make
