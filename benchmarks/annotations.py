"""How fast a COCO JSON of the size of COCO train2017 is opened, and how much memory four workers take together.

    python benchmarks/annotations.py [--images 118287] [--annotations 860001] [--workers 4]

The file is made in a temporary folder, and deleted in the end. The memory is the proportional share (PSS) of Linux, in
which pages that several processes share count once.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

from vitdet.annotations import CocoIndex


def write(path: Path, images: int, annotations: int) -> None:
    """A COCO JSON whose polygons have as many points as those of COCO train2017, in the same file size."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"images": ')
        file.write(
            json.dumps([{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(images)])
        )
        file.write(', "categories": ')
        file.write(json.dumps([{"id": k, "name": f"class {k}"} for k in range(1, 81)]))
        file.write(', "annotations": [')
        for i in range(annotations):
            x, y = rng.uniform(0, 500), rng.uniform(0, 300)
            points = [round(low + rng.uniform(0, 99), 2) for low in (x, y) * rng.randrange(4, 47)]
            item = {
                "segmentation": [points],
                "area": round(rng.uniform(9, 9999), 4),
                "iscrowd": 0,
                "image_id": rng.randrange(images),
                "bbox": [round(x, 2), round(y, 2), 99.0, 99.0],
                "category_id": rng.randrange(1, 81),
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(item))
        file.write("]}")


def memory() -> float:
    """The proportional share of the memory of this process, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def work(index: CocoIndex, barrier, queue) -> None:
    """What a worker does with the index: everything is read, and the masks of some images are decoded."""
    start = memory()
    index.boxes_xywh.sum(), index.first.sum(), index.area.sum(), index.trainable.sum()
    for i in range(0, len(index), max(1, len(index) // 500)):
        rows = index.annotations(i)
        for row in range(rows.start, rows.stop):
            index.rle(row)
    # all workers hold the index while each measures
    barrier.wait()
    queue.put((start, memory()))
    barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write(path, options.images, options.annotations)
        print(f"{options.images:,} images, {options.annotations:,} annotations, {path.stat().st_size / 1e6:.0f} MB")
        for what in ("built", "from the cache", "from the cache again"):
            start, busy = time.perf_counter(), time.process_time()
            index = CocoIndex.open(path)
            wall, busy = time.perf_counter() - start, time.process_time() - busy
            print(f"opened, {what}: {wall:.2f} s ({busy:.2f} s of a core)")
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            barrier, queue = context.Barrier(options.workers), context.Queue()
            workers = [context.Process(target=work, args=(index, barrier, queue)) for _ in range(options.workers)]
            for worker in workers:
                worker.start()
            shares = [queue.get() for _ in workers]
            for worker in workers:
                worker.join()
            before, after = (sum(column) for column in zip(*shares))
            print(
                f"{options.workers} workers ({method}): {after:.0f} MB together, of which {after - before:.0f} MB index"
            )


if __name__ == "__main__":
    main()
