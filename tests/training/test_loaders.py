"""Training on what is not vitdet's own: plain loaders, data modules of users, splits that are missing or small."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vitdet import Task
from vitdet.config import build
from vitdet.data.dataset import collate
from vitdet.errors import UserError
from vitdet.structures import Target


class Squares(torch.utils.data.Dataset):
    """Bright squares on black, of no format."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        image = torch.zeros(3, 48, 64)
        image[:, 8:24, 16 + i : 32 + i] = 1.0
        box = torch.tensor([[(24 + i) / 64, 16 / 48, 16 / 64, 16 / 48]])
        return image, Target(box, torch.tensor([0]), (48, 64), (48, 64), image_id=i)


class Own(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Squares(), batch_size=2, collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(Squares(), batch_size=2, collate_fn=collate)


def _stack(samples):
    images, targets = collate(samples)
    return torch.stack(images), targets


@pytest.mark.parametrize("batches", [collate, _stack], ids=["lists", "stacked"])
def test_plain_loaders_train_and_are_not_scored(tiny, batches, caplog):
    task, _, trainer = tiny(max_steps=2)
    train, val = (DataLoader(Squares(), batch_size=2, collate_fn=batches) for _ in range(2))
    trainer.fit(task, train_dataloaders=train, val_dataloaders=val)
    assert caplog.text.count("DETRHead has no metric for this data: nothing is scored on val") == 1
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)["vitdet"]
    assert trainer.global_step == 2 and saved["data"] is None
    assert len(trainer.predict(task, val)) == 3
    trainer.test(task, val, verbose=False)


def test_a_loader_for_training_is_enough(tiny):
    task, _, trainer = tiny(max_steps=2)
    trainer.fit(task, train_dataloaders=DataLoader(Squares(), batch_size=2, collate_fn=collate))
    assert trainer.global_step == 2


def test_a_data_module_of_the_users_own(tiny):
    task, _, trainer = tiny(max_epochs=1)
    trainer.fit(task, datamodule=Own())
    assert trainer.global_step == 3 and (trainer.run_folder / "last.ckpt").is_file()


def test_a_training_without_validation(tiny, caplog):
    from vitdet import CocoData

    task, shapes, trainer = tiny(max_epochs=1)
    data = CocoData(train=shapes.splits["train"], size=64, batch_size=4)
    with caplog.at_level("INFO"):
        trainer.fit(task, data)
    assert trainer.global_step == 3 and "val: none, so nothing is validated" in caplog.text
    assert {path.name for path in trainer.run_folder.glob("*.ckpt")} == {"last.ckpt"}
    with pytest.raises(ValueError, match=r"there is no val data; set data\.val\.images"):
        trainer.validate(task, data)


class Seen(L.Callback):
    def __init__(self):
        self.epochs = {}

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.epochs.setdefault(trainer.current_epoch, []).append([target.image_id for target in batch[1]])


def test_overfitting_shows_the_same_images_in_every_epoch(tiny):
    seen = Seen()
    task, data, trainer = tiny(max_epochs=3, overfit_batches=2, callbacks=[seen], data={"eval_batch_size": 2})
    trainer.fit(task, data)
    assert seen.epochs[0] == seen.epochs[1] == seen.epochs[2] and len(seen.epochs[0]) == 2


def test_a_checkpoint_knows_its_data(tiny):
    task, data, trainer = tiny(max_steps=1)
    trainer.fit(task, data)
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)["vitdet"]
    again = build(saved["data"])
    assert type(again) is type(data) and again.describe() == data.describe()
    assert trainer.test(task, again, verbose=False)[0] == trainer.test(task, data, verbose=False)[0]


def test_images_of_the_data_are_predicted(tiny, recwarn):
    task, data, trainer = tiny(max_steps=1)
    trainer.fit(task, data)
    for options in ({"datamodule": data}, {"dataloaders": data.val_dataloader(), "ckpt_path": "best"}):
        found = trainer.predict(task, **options)
        assert sorted(one.image_id for batch in found for one in batch) == sorted(data.index("val").image_ids.tolist())
    assert not [w for w in recwarn if "batch sampler" in str(w.message) or "ckpt_path" in str(w.message)]
    with pytest.raises(UserError, match="there is no checkpoint nowhere.ckpt"):
        trainer.predict(task, data, ckpt_path="nowhere.ckpt")


@pytest.mark.parametrize("classes", ["disc", 6])
def test_classes_are_a_list(tiny, classes):
    with pytest.raises(UserError, match=f"classes is {classes!r}; wanted the list of the class names"):
        tiny(task={"classes": classes})


def test_lightnings_options_of_loading(tiny):
    task, data, trainer = tiny(max_steps=1)
    trainer.fit(task, data)
    best = trainer.run_folder / "best.ckpt"
    assert Task.load_from_checkpoint(best, weights_only=True, strict=True).classes == data.classes
    with pytest.raises(UserError, match="strict is False; wanted nothing"):
        Task.load_from_checkpoint(best, strict=False)
