"""Names and shapes of the released S/2 checkpoints, written down by hand and not taken from our own modules."""

DEPTH = 12
OUTSIDE = {  # width 384, 16×16 tokens, 2·2·8 outputs a token, 1,000 classes and none
    "pos_embed": (1, 256, 384),
    "x_embedder.proj.weight": (384, 4, 2, 2),
    "x_embedder.proj.bias": (384,),
    "t_embedder.mlp.0.weight": (384, 256),
    "t_embedder.mlp.0.bias": (384,),
    "t_embedder.mlp.2.weight": (384, 384),
    "t_embedder.mlp.2.bias": (384,),
    "y_embedder.embedding_table.weight": (1001, 384),
    "final_layer.linear.weight": (32, 384),
    "final_layer.linear.bias": (32,),
    "final_layer.adaLN_modulation.1.weight": (768, 384),
    "final_layer.adaLN_modulation.1.bias": (768,),
}
IN_EACH_BLOCK = {
    "attn.qkv.weight": (1152, 384),
    "attn.qkv.bias": (1152,),
    "attn.proj.weight": (384, 384),
    "attn.proj.bias": (384,),
    "mlp.fc1.weight": (1536, 384),
    "mlp.fc1.bias": (1536,),
    "mlp.fc2.weight": (384, 1536),
    "mlp.fc2.bias": (384,),
    "adaLN_modulation.1.weight": (2304, 384),
    "adaLN_modulation.1.bias": (2304,),
}
SHAPES = OUTSIDE | {f"blocks.{n}.{name}": shape for n in range(DEPTH) for name, shape in IN_EACH_BLOCK.items()}
