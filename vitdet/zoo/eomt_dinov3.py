"""EoMT with DINOv3.

The authors publish differences from the weights of DINOv3, which Meta gives out on request, under Meta's licence.
"""

from collections.abc import Sequence

from torch import Tensor

from vitdet.backbone.keys import KeysError
from vitdet.backbone.layouts import dinov3
from vitdet.zoo.cards import Base, Card
from vitdet.zoo.eomt import AUTHORS_HEAD, TRANSFORMERS_HEAD, Size, convert_head, is_authors, split
from vitdet.zoo.eomt import card as eomt_card

SOURCE = "EoMT's model zoo, DINOv3"
META = {
    "small": "dinov3-vits16-pretrain-lvd1689m",
    "base": "dinov3-vitb16-pretrain-lvd1689m",
    "large": "dinov3-vitl16-pretrain-lvd1689m",
}

# fmt: off
SIZES = {
    "eomt-dinov3-small-coco-panoptic-640": Size("small", 640, 3, "coco_panoptic_eomt_small_640_dinov3",
         "PQ 47.2", 23.4, 131.7),
    "eomt-dinov3-base-coco-panoptic-640": Size("base", 640, 3, "coco_panoptic_eomt_base_640_dinov3",
         "PQ 53.1", 92.4, 423.2),
    "eomt-dinov3-large-coco-panoptic-640": Size("large", 640, 4, "coco_panoptic_eomt_large_640_dinov3",
         "PQ 56.8", 315.0, 1325.5),
    "eomt-dinov3-large-coco-panoptic-1280": Size("large", 1280, 4, "coco_panoptic_eomt_large_1280_dinov3",
         "PQ 58.9", 315.0, 8246.3),
    "eomt-dinov3-large-coco-instance-640": Size("large", 640, 4, "coco_instance_eomt_large_640_dinov3",
         "mask AP 45.9", 315.0, 1325.4, "instances"),
    "eomt-dinov3-large-coco-instance-1280": Size("large", 1280, 4, "coco_instance_eomt_large_1280_dinov3",
         "mask AP 49.9", 315.0, 8246.2, "instances"),
    "eomt-dinov3-large-ade20k-semantic-512": Size("large", 512, 4, "ade_semantic_eomt_large_512_dinov3",
         "mIoU 59.5", 315.0, 784.8, "semantic", "ade20k"),
}
# fmt: on


def card(name: str, size: Size) -> Card:
    meta = META[size.vit]
    return eomt_card(
        name,
        size,
        licence="MIT; DINOv3's on Meta's terms",
        source=SOURCE,
        vit={"name": f"vit_{size.vit}_patch16_dinov3_qkvb"},
        convert=convert,
        base=Base(f"{meta}.safetensors", f"https://huggingface.co/facebook/{meta}"),
    )


BACKBONE = "network.encoder.backbone."


def _trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translates the tensors of a DINOv3 to the names of vitdet's trunk."""
    renamed = {
        key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v for key, v in dinov3(state).items()
    }
    return {f"backbone.trunk.{key}": value for key, value in renamed.items()}


def convert(
    state: dict[str, Tensor], base: dict[str, Tensor] | None = None, *, things: Sequence[bool], blocks: int
) -> dict[str, Tensor]:
    """Translates tensors of the authors, or of the transformers library, to vitdet's names.

    Args:
        state: differences from `base` with the names of the authors, or weights with the names of transformers.
        base: the weights of DINOv3 with the names of transformers.
        things: whether each class is a thing, indexed by label.
        blocks: number of blocks that queries join.

    Raises:
        KeysError: a name is unknown, queries join another number of blocks, or `base` is missing.
    """
    if not is_authors(state):
        trunk, rest = split(state)
        return _trunk(trunk) | convert_head(rest, TRANSFORMERS_HEAD, things=things, blocks=blocks)
    if base is None:
        raise KeysError("it holds differences from DINOv3's weights, and those are not there")
    vit = {key.removeprefix(BACKBONE): v for key, v in state.items() if key.startswith(BACKBONE)}
    vit = {key.replace("patch_embed.", "embeddings.", 1).replace("blocks.", "layer.", 1): v for key, v in vit.items()}
    rest = {key: v for key, v in state.items() if not key.startswith(BACKBONE)}
    difference, whole = _trunk(vit), _trunk(base)
    if set(difference) != set(whole):
        raise KeysError(f"its DINOv3 is another one: {sorted(set(difference) ^ set(whole))[:3]} …")
    trunk = {key: whole[key] + value for key, value in difference.items()}
    return trunk | convert_head(rest, AUTHORS_HEAD, things=things, blocks=blocks)


CARDS = [card(name, size) for name, size in SIZES.items()]
