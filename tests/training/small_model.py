"""The arguments of a model of a few thousand weights."""

BACKBONE = {
    "stem": {"class_path": "vitdet.ConvStem", "init_args": {"width": 8}},
    "model_args": {"embed_dim": 32, "num_heads": 2},
    "depth": 1,
    "out_channels": 32,
}
HEAD = {"dim": 32, "num_queries": 20, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}, "denoising": 20}
