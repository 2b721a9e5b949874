"""Pictures of training samples: what the model sees is what is drawn, and drawing changes nothing."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.cli import main
from vitdet.data.samples import caption, draw_sample, file_names, sheet
from vitdet.draw import class_colour
from vitdet.structures import Target
from vitdet.training.callbacks.samples import SIDE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def target(height, width, boxes=(), masks=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    size = (height, width)
    return Target(boxes, torch.arange(len(boxes)), size, size, 7, masks)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def image(pixels):
    """As the model sees it."""
    scaled = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_an_image_is_shown_as_it_was_before_it_was_normalised(image, pixels):
    shown = draw_sample(image, target(40, 60), names=[], mean=MEAN, std=STD)
    assert np.array_equal(np.asarray(shown), pixels)


def test_boxes_are_drawn_where_they_are(image):
    """Centre (0.5, 0.5), 30×20 of 60×40 pixels: from x 15 to 45 and from y 10 to 30."""
    shown = np.asarray(
        draw_sample(image, target(40, 60, [[0.5, 0.5, 0.5, 0.5]]), names=["cat"], mean=MEAN, std=STD).convert("RGB")
    )
    edge = (shown == class_colour(0)).all(-1)
    assert edge[29, 15:45].all() and edge[12:30, 15].all() and not edge[34:].any() and not edge[:, 46:].any()


def test_masks_are_drawn_at_the_size_of_the_picture(image):
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[:, :20] = True
    blank = torch.zeros(3, 40, 60)
    objects = target(40, 60, [[0.5, 0.25, 1, 0.5]], mask)
    shown = draw_sample(blank, objects, names=[""], mean=(0, 0, 0), std=(1, 1, 1), outline=False, side=30)
    lit = np.asarray(shown).any(-1)
    assert shown.size == (30, 20) and lit[:10].all() and not lit[10:].any()


def test_a_sheet_holds_all_pictures(image):
    pictures = [Image.new("RGB", (20 + k, 30), (255, 0, 0)) for k in range(5)]
    whole = np.asarray(sheet(pictures, ["a long caption that does not fit"] * 5))
    assert (whole == (255, 0, 0)).all(-1).sum() == sum(p.width * p.height for p in pictures)
    assert caption(target(40, 60, [[0.5, 0.5, 1, 1]]), "a.jpg") == "image 7 a.jpg, 60×40, 1 object"


def test_the_first_batches_of_a_training_are_those_of_the_loader(tiny):
    task, data, trainer = tiny(pictures=1, max_epochs=2)
    trainer.fit(task, data)
    folder = trainer.run_folder / "pictures"
    # an epoch has four batches, of which three are drawn
    assert sorted(path.name for path in folder.glob("train_*")) == [f"train_batch{k}.jpg" for k in range(3)]
    task, data, _ = tiny()
    task.use_data(data)
    names = file_names(data.index("train"))
    options = {"names": data.classes, "mean": data.mean, "std": data.std, "side": SIDE}
    for k, (images, targets) in enumerate(itertools.islice(data.train_dataloader(), 3)):
        pictures = [draw_sample(image, one, **options) for image, one in zip(images, targets)]
        expected = io.BytesIO()
        sheet(pictures, [caption(one, names[one.image_id]) for one in targets]).save(expected, "JPEG", quality=85)
        assert (folder / f"train_batch{k}.jpg").read_bytes() == expected.getvalue()


def test_drawing_changes_no_weight(tiny):
    weights = []
    for pictures in (0, 1):
        task, data, trainer = tiny(pictures=pictures, max_steps=3)
        trainer.fit(task, data)
        weights.append(task.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_picture_that_cannot_be_written_ends_no_training(tiny, capsys):
    task, data, trainer = tiny(pictures=1, max_steps=2, limit_val_batches=0)
    trainer.run_folder.mkdir(parents=True, exist_ok=True)
    (trainer.run_folder / "pictures").write_text("in the way")
    trainer.fit(task, data)
    assert trainer.global_step == 2
    assert capsys.readouterr().out.count("pictures of the first batches are not written: ") == 1


@pytest.mark.parametrize("kind", ["detr", "panoptic", "semantic"])
def test_show_draws_training_samples(kind, tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(tmp_path)
    small = ["--data.train_images", "5", "--data.val_images", "2", "--data.batch_size", "2", "--data.size", "64"]
    model = ["--model.backbone.depth", "1", "--model.backbone.model_args", "{embed_dim: 32, num_heads: 2}"]
    main(["data", "show", f"{root}/configs/{kind}_vit.yaml", "--output", "out", "--batches", "2", *small, *model])
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.jpg"))
    assert [name.rpartition("_")[0] for name in drawn] == ["batch0_00", "batch0_01", "batch1_00", "batch1_01"]
    out = capsys.readouterr().out
    assert all(name in out for name in drawn) and "batch 1: 2 images" in out
    with pytest.raises(SystemExit, match="2"):
        main(["data", "show", f"{root}/configs/{kind}_vit.yaml", "--batches", "0"])
