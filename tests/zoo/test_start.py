"""Starting from weights of other classes, numbers of queries, resolutions and patch sizes."""

import logging

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import nn

from vitdet import Backbone, DETRHead, EoMTHead, Task, load, zoo
from vitdet.cli import load_config, main
from vitdet.command.layers import read_layers
from vitdet.command.run import complete
from vitdet.config import config_of
from vitdet.zoo import CheckpointError

CLASSES = ["cat", "dog", "bird"]
SIZES = {"embed_dim": 32, "num_heads": 2}
BACKBONE = {"model_args": SIZES, "depth": 2}
HEAD = {"dim": 32, "num_queries": 12, "num_layers": 2, "decoder": {"num_heads": 2, "ffn_dim": 64}, "groups": 2}
LEARNED = {"selection": {"content": "learned", "learned_reference": True, "per_group": True}, "denoising": 0}


def make(head=None, backbone=None, classes=CLASSES, **task):
    trunk = Backbone("vit_tiny_patch16_224", **{**BACKBONE, "out_channels": 32, **(backbone or {})})
    return Task(trunk, lambda c, s, k: DETRHead(c, s, k, **{**HEAD, **(head or {})}), classes=classes, **task)


@pytest.fixture
def run(tmp_path):
    """`run(…)`: a checkpoint as a training writes it, and its task."""

    def save(task):
        contents = {"state_dict": task.state_dict()}
        task.on_save_checkpoint(contents)
        task.eval_transform = {"size": 64}
        contents["vitdet"]["eval_transform"] = {"size": 64}
        torch.save(contents, tmp_path / "best.ckpt")
        return str(tmp_path / "best.ckpt")

    return save


def test_rows_of_classes_of_the_same_name_are_kept(run, caplog):
    old = make(LEARNED | {"dense_aux": True})
    caplog.set_level(logging.INFO)
    new = make(LEARNED | {"dense_aux": True}, classes=["horse", "bird", "cat", "cow"], checkpoint=run(old))
    layers = (
        "decoder.classify",
        "selection.groups.0.classify",
        "selection.groups.1.classify",
        "selection.dense_classify",
    )
    for name in layers:
        before, after = old.head.get_submodule(name), new.head.get_submodule(name)
        assert torch.equal(after.weight[[1, 2]], before.weight[[2, 0]])
        assert torch.equal(after.bias[[1, 2]], before.bias[[2, 0]])
        assert not torch.equal(after.weight[0], before.weight[0])
    assert torch.equal(new.head.decoder.box[0].weight, old.head.decoder.box[0].weight)
    assert "classes kept by name, 2 of 4: bird, cat" in caplog.text
    assert "classes left at random, 2: horse, cow" in caplog.text


def test_classes_in_another_order_are_not_mixed_up(run):
    old = make()
    new = make(classes=CLASSES[::-1], checkpoint=run(old))
    assert torch.equal(new.head.decoder.classify.weight, old.head.decoder.classify.weight.flip(0))
    assert torch.equal(new.head.denoising.embed.weight, old.head.denoising.embed.weight.flip(0))


@pytest.mark.parametrize(("queries", "groups"), [(12, 2), (20, 2), (7, 2), (12, 1), (20, 3), (6, 4)])
def test_queries_are_kept_group_by_group(run, caplog, queries, groups):
    old = make(LEARNED)
    nn.init.normal_(old.head.query_boxes.weight)
    caplog.set_level(logging.INFO)
    new = make(LEARNED | {"num_queries": queries, "groups": groups}, checkpoint=run(old))
    for name in ("query_embed", "query_boxes"):
        before = getattr(old.head, name).weight.view(2, 12, -1)
        after = getattr(new.head, name).weight.view(groups, queries, -1)
        q, g = min(queries, 12), min(groups, 2)
        assert torch.equal(after[:g, :q], before[:g, :q])
    assert ("queries in" in caplog.text) == ((queries, groups) != (12, 2))
    if (queries, groups) == (12, 2):
        assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items())


@pytest.mark.parametrize("size", [[96, 64], [64, 256], 96])
def test_another_grid_and_patch_size_are_resampled(run, caplog, size):
    """Grids need not be square, and a grid of as many tokens is another one all the same."""
    levels = {"out_strides": [8, 16, 32]}
    old = make(backbone={**levels, "model_args": {**SIZES, "img_size": size}})
    nn.init.normal_(old.backbone.trunk.pos_embed)
    path = run(old)
    caplog.set_level(logging.INFO)
    rows, columns = (size, size) if isinstance(size, int) else size
    args = {"model_args": {**SIZES, "img_size": [columns, rows]}, "patch_size": 8, **levels}
    new = make(backbone=args, checkpoint=path).backbone.trunk
    before, grid = old.backbone.trunk, (rows // 16, columns // 16)
    expected = resample_abs_pos_embed(before.pos_embed, list(grid[::-1]), list(grid))
    torch.testing.assert_close(new.pos_embed, expected)
    expected = resample_patch_embed(before.patch_embed.proj.weight, [8, 8])
    torch.testing.assert_close(new.patch_embed.proj.weight, expected)
    told = f"weights resampled: backbone.trunk.pos_embed from a grid of {grid} to {grid[::-1]}"
    assert (told in caplog.text) == (rows != columns)
    assert "weights resampled: backbone.trunk.patch_embed.proj.weight (32, 3, 16, 16) -> (32, 3, 8, 8)" in caplog.text


def test_code_in_a_checkpoint_is_not_run(run, config, tmp_path, capsys):
    """Whatever its class path names, here through jsonargparse, which would call any function."""
    path = run(make(classes=["star"]))
    contents = torch.load(path, weights_only=True)
    contents["vitdet"]["model"]["head"] = {
        "class_path": "os.system",
        "init_args": {"command": f"touch {tmp_path}/owned"},
    }
    torch.save(contents, path)
    for command in (["test", str(config)], ["train", str(config), "--ckpt_path", path]):
        with pytest.raises(SystemExit):
            main(command)
        assert "os.system is not a vitdet part" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


def test_what_was_never_trained_is_not_scored(run, config, capsys):
    run(make(classes=["star", "disc"]))
    with pytest.raises(SystemExit):
        main(["test", str(config)])
    assert "test needs a checkpoint" in capsys.readouterr().err
    run(make(classes=["disc", "square", "triangle", "star", "ring", "cross"]))
    main(["test", str(config)])
    assert "as it is; --ckpt_path scores what was trained from it" in capsys.readouterr().out


def test_a_size_is_replaced_not_merged(run, config, tmp_path):
    run(make(classes=["star"]))
    config.write_text(config.read_text().replace("data: {", "data: {size: {square: 32}, "))
    _, data = load_config(config)
    assert data.size == {"square": 32}


def test_the_class_nothing_is_kept(run):
    def task(classes, **options):
        backbone = Backbone("vit_tiny_patch16_224", **BACKBONE, tail=1, neck=None)
        return Task(backbone, lambda c, s, k: EoMTHead(c, s, k, num_queries=5), classes=classes, **options)

    old = task(CLASSES)
    new = task(["dog"], checkpoint=run(old))
    assert torch.equal(new.head.classify.weight, old.head.classify.weight[[1, 3]])
    assert torch.equal(new.head.queries.weight, old.head.queries.weight)


def test_another_model_is_refused(run):
    with pytest.raises(CheckpointError, match=r"is another model: .* leave out model.backbone and model.head"):
        make(head={"dim": 64}, checkpoint=run(make()))
    with pytest.raises(CheckpointError, match="no published model 'rf-detr-smal', nor a file; near it: rf-detr-small"):
        make(checkpoint="rf-detr-smal")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
model: {{checkpoint: {tmp_path / "best.ckpt"}, lr: 1.0e-4, head: {{num_queries: 9}}}}
data: {{class_path: ShapesData, root: {tmp_path / "shapes"}, train_images: 4, val_images: 2, batch_size: 2}}
trainer: {{max_steps: 1, root: {tmp_path / "runs"}, accelerator: cpu, pictures: 0}}
"""
    )
    return path


def test_a_config_needs_no_model_of_its_own(run, config, tmp_path, capsys):
    """It is that of the checkpoint, with what the config says on top; a run that goes on does not start over."""
    old = make(classes=["star", "disc"])
    run(old)
    task, data = load_config(config)
    assert task.head.num_queries == 9 and task.backbone.channels == 32 and data.size == 64
    assert torch.equal(
        task.head.decoder.classify.weight[data.classes.index("star")], old.head.decoder.classify.weight[0]
    )
    expected = config_of(old.backbone)["init_args"]
    assert config_of(task.backbone)["init_args"] == expected
    main(["train", str(config)])
    assert "classes kept by name, 2 of 6: disc, star" in capsys.readouterr().err
    (tmp_path / "best.ckpt").rename(tmp_path / "moved.ckpt")
    last = tmp_path / "runs" / "mine" / "version_0" / "last.ckpt"
    assert len(load(last).classes) == 6
    saved = tmp_path / "runs" / "mine" / "version_0" / "config.yaml"
    main(["test", str(saved), "--ckpt_path", str(last)])
    assert "AP" in capsys.readouterr().out


def test_the_architecture_of_a_published_model_comes_from_its_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
model: {{head: {{num_queries: 20}}, optimizer: adamw}}
data: {{class_path: ShapesData, root: {tmp_path / "shapes"}, train_images: 4, val_images: 2}}
"""
    )
    card = zoo.find("rf-detr-nano")
    model = card.build()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of rf-detr-nano: .* unknown names"):
        load_config(
            path, ["--model.checkpoint", "rf-detr-nano", "--model.checkpoint_file", str(tmp_path / "weights.pth")]
        )
    config = complete(read_layers(path), "rf-detr-nano")
    assert config["model"]["head"]["init_args"] == card.head | {"num_queries": 20}
    assert config["model"]["backbone"]["init_args"] == card.backbone
    assert (
        config["data"]["init_args"]["size"] == {"square": 384} and config["data"]["init_args"]["resample"] == "bilinear"
    )
