"""DEIMv2 as transformers has it, with random weights, and its tensors by the authors' names.

transformers 5.24 differs from the authors' code, and is corrected here (by `as_the_authors`, and in the config): it
normalises the tokens that it selects from and the last tap of the tiny ViTs, drops the bias of their keys, embeds boxes
anew in every layer, and has ReLU or GELU where the authors have SiLU. The authors' code was read, not run.
"""

import torch
from torch import nn
from transformers import Deimv2Config, Deimv2ForObjectDetection, DINOv3ViTConfig

from vitdet.backbone.keys import Rule, rename
from vitdet.zoo.deimv2 import SIZES

DEPTH = {"s": 0.67, "m": 1.0, "l": 1.0, "x": 1.37}  # hf_models.ipynb: depth_mult and expansion
EXPANSION = {"s": 0.34, "m": 0.67, "l": 1.0, "x": 1.25}


def vit_config(name):
    size = SIZES[name]
    options = {"out_indices": [tap + 1 for tap in size.taps], "num_hidden_layers": 12, "reshape_hidden_states": True}
    if sizes := size.vit.get("model_args"):
        width = sizes["embed_dim"]
        options |= {"hidden_size": width, "num_attention_heads": sizes["num_heads"], "num_register_tokens": 0}
        options |= {"intermediate_size": 4 * width, "apply_layernorm": False, "layerscale_value": 1.0}
        options |= {"key_bias": True, "layer_norm_eps": 1e-6}
    else:
        options |= {"hidden_size": 384, "num_attention_heads": 6, "num_register_tokens": 4, "apply_layernorm": True}
        options |= {"intermediate_size": 1536, "use_gated_mlp": name == "x", "key_bias": False}
        options |= {"hidden_act": "silu" if name == "x" else "gelu"}
    return DINOv3ViTConfig(pos_embed_rescale=None, **options)


def reference(name, **options):
    size = SIZES[name]
    given = {
        "encoder_hidden_dim": size.dim,
        "encoder_in_channels": [size.dim] * 3,
        "encoder_ffn_dim": size.attention_ffn,
        "depth_mult": DEPTH[name],
        "hidden_expansion": EXPANSION[name],
        "encoder_has_trailing_conv": False,
        "spatial_tuning_adapter_inplanes": size.detail,
        "d_model": size.dim,
        "decoder_in_channels": [size.dim] * 3,
        "decoder_ffn_dim": 2 * size.ffn,
        "decoder_layers": size.layers,
        "decoder_n_points": [3, 6, 3],
        "decoder_activation_function": "silu",
        "focal_loss_gamma": 1.5,
    }
    config = Deimv2Config(backbone_config=vit_config(name), num_labels=80, **{**given, **options})
    return as_the_authors(Deimv2ForObjectDetection(config), tiny="model_args" in size.vit)


class Once(nn.Module):
    """Answers every call after the first, until the answer is forgotten, as it did then."""

    def __init__(self, module):
        super().__init__()
        self.layers, self.act, self.answer = module.layers, module.act, None

    def forward(self, x):
        if self.answer is None:
            first, second, last = self.layers
            self.answer = last(self.act(second(self.act(first(x)))))
        return self.answer


def as_the_authors(model, *, tiny):
    inner, decoder = model.model, model.model.decoder
    inner.enc_output = nn.Identity()
    decoder.query_pos_head = Once(decoder.query_pos_head)
    decoder.register_forward_pre_hook(lambda *_: setattr(decoder.query_pos_head, "answer", None))
    for mlp in (
        inner.enc_bbox_head,
        decoder.pre_bbox_head,
        *decoder.bbox_embed,
        *(lqe.reg_conf for lqe in decoder.lqe_layers),
    ):
        mlp.act = nn.SiLU()
    if tiny:
        inner.conv_encoder.backbone.norm = nn.Identity()
    return model


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    fixed = ("up", "reg_scale")
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 4:  # transformers' would let what is seen fade away
                p.copy_(noise * (1.5 / p[0].numel()) ** 0.5)
            elif "lambda" in name:
                p.fill_(1.0)  # the tiny ViTs have none
            elif not name.endswith(fixed):
                p.add_((0.02 if p.ndim > 1 else 0.1) * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model


V, L = r"model\.conv_encoder\.backbone\.", r"model\.conv_encoder\.backbone\.model\.layer\.(\d+)\."
BLOCK, ENCODER = r"backbone.dinov3.blocks.\1.", r"model\.encoder\.(fpn|pan)_blocks\.(\d+)\."
DECODER = r"model\.decoder\.layers\.(\d+)\."
AIFI = r"model\.encoder\.aifi\.0\.layers\.0\."
TO_AUTHORS: list[Rule] = [  # the inverse of transformers' convert_deimv2_original_pytorch_checkpoint_to_hf.py
    (r"(?:class|bbox)_embed\..+|.+\.num_batches_tracked", None),
    (V + r"embeddings\.patch_embeddings\.(.+)", r"backbone.dinov3.patch_embed.proj.\1"),
    (V + r"embeddings\.(cls_token|mask_token)", r"backbone.dinov3.\1"),
    (V + r"embeddings\.register_tokens", "backbone.dinov3.storage_tokens"),
    (V + r"norm\.(.+)", r"backbone.dinov3.norm.\1"),
    (L + r"(norm[12])\.(.+)", BLOCK + r"\2.\3"),
    *((L + rf"attention\.{part}_proj\.(.+)", BLOCK + rf"attn.qkv.\2#{i}") for i, part in enumerate("qkv")),
    (L + r"attention\.o_proj\.(.+)", BLOCK + r"attn.proj.\2"),
    (L + r"layer_scale([12])\.lambda1", BLOCK + r"ls\2.gamma"),
    (L + r"mlp\.(gate|up|down)_proj\.(.+)", BLOCK + r"mlp.\2.\3"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.stem_conv\.conv\.(.+)", r"backbone.sta.stem.0.\1"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.stem_conv\.norm\.(.+)", r"backbone.sta.stem.1.\1"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.conv2\.conv\.(.+)", r"backbone.sta.conv2.0.\1"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.conv2\.norm\.(.+)", r"backbone.sta.conv2.1.\1"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.conv([34])\.conv\.(.+)", r"backbone.sta.conv\1.1.\2"),
    (r"model\.conv_encoder\.spatial_tuning_adapter\.conv([34])\.norm\.(.+)", r"backbone.sta.conv\1.2.\2"),
    (r"model\.conv_encoder\.fusion_proj\.(\d+)\.(conv|norm)\.(.+)", r"backbone.\2s.\1.\3"),
    *(
        (AIFI + rf"self_attn\.{part}_proj\.(.+)", rf"encoder.encoder.0.layers.0.self_attn.in_proj_\1#{i}")
        for i, part in enumerate("qkv")
    ),
    (AIFI + r"self_attn\.o_proj\.(.+)", r"encoder.encoder.0.layers.0.self_attn.out_proj.\1"),
    (AIFI + r"self_attn_layer_norm\.(.+)", r"encoder.encoder.0.layers.0.norm1.\1"),
    (AIFI + r"final_layer_norm\.(.+)", r"encoder.encoder.0.layers.0.norm2.\1"),
    (AIFI + r"mlp\.layers\.0\.(.+)", r"encoder.encoder.0.layers.0.linear1.\1"),
    (AIFI + r"mlp\.layers\.1\.(.+)", r"encoder.encoder.0.layers.0.linear2.\1"),
    (r"model\.encoder\.lateral_convs\.(.+)", r"encoder.lateral_convs.\1"),
    (r"model\.encoder\.downsample_convs\.(\d+)\.conv([12])\.(.+)", r"encoder.downsample_convs.\1.0.cv\2.\3"),
    (ENCODER + r"conv1\.(.+)", r"encoder.\1_blocks.\2.cv1.\3"),
    (ENCODER + r"conv2\.(.+)", r"encoder.\1_blocks.\2.cv4.\3"),
    (ENCODER + r"csp_rep1\.(.+)", r"encoder.\1_blocks.\2.cv2.0.\3"),
    (ENCODER + r"csp_rep2\.(.+)", r"encoder.\1_blocks.\2.cv3.0.\3"),
    *(
        (DECODER + rf"self_attn\.{part}_proj\.(.+)", rf"decoder.decoder.layers.\1.self_attn.in_proj_\2#{i}")
        for i, part in enumerate("qkv")
    ),
    (DECODER + r"self_attn\.o_proj\.(.+)", r"decoder.decoder.layers.\1.self_attn.out_proj.\2"),
    (DECODER + r"encoder_attn\.(.+)", r"decoder.decoder.layers.\1.cross_attn.\2"),
    (DECODER + r"self_attn_layer_norm\.weight", r"decoder.decoder.layers.\1.norm1.scale"),
    (DECODER + r"final_layer_norm\.weight", r"decoder.decoder.layers.\1.norm3.scale"),
    (DECODER + r"gateway\.gate\.(.+)", r"decoder.decoder.layers.\1.gateway.gate.\2"),
    (DECODER + r"gateway\.norm\.weight", r"decoder.decoder.layers.\1.gateway.norm.scale"),
    (DECODER + r"mlp\.gate_proj\.(.+)", r"decoder.decoder.layers.\1.swish_ffn.w12.\2#0"),
    (DECODER + r"mlp\.up_proj\.(.+)", r"decoder.decoder.layers.\1.swish_ffn.w12.\2#1"),
    (DECODER + r"mlp\.down_proj\.(.+)", r"decoder.decoder.layers.\1.swish_ffn.w3.\2"),
    (r"model\.decoder\.(lqe_layers\..+|up|reg_scale)", r"decoder.decoder.\1"),
    (r"model\.decoder\.class_embed\.(.+)", r"decoder.dec_score_head.\1"),
    (r"model\.decoder\.bbox_embed\.(.+)", r"decoder.dec_bbox_head.\1"),
    (r"model\.decoder\.((?:pre_bbox|query_pos)_head\..+)", r"decoder.\1"),
    (r"model\.((?:enc_score|enc_bbox)_head\..+|denoising_class_embed\.weight)", r"decoder.\1"),
]
PLAIN, GATED = {"up": "fc1", "down": "fc2"}, {"gate": "w1", "up": "w2", "down": "w3"}


def authors(state, name):
    """The tensors of transformers by the authors' names."""
    tiny, mlp = "model_args" in SIZES[name].vit, GATED if name == "x" else PLAIN
    named = {}
    for key, value in rename(state, TO_AUTHORS).items():
        for theirs, ours in mlp.items():
            key = key.replace(f".mlp.{theirs}.", f".mlp.{ours}.")
        if tiny:
            key = key.replace("dinov3.", "dinov3._model.")
            if any(part in key for part in (".ls1.", ".ls2.", "mask_token", "storage_tokens")):
                continue
        elif key.endswith(
            "attn.qkv.bias"
        ):  # of queries and values; in the authors' files keys have one that counts for nothing
            q, v = value.chunk(2)
            value = torch.cat([q, torch.full_like(q, 7.0), v])
        named[key] = value
    return named
