"""Writes a vision encoder of one layer with random weights, of Gemma 3's kind, for a model of width 64: projector.py FILE"""

import sys

import numpy
from gguf import GGUFWriter

WIDTH, INNER, IMAGE, PATCH, OUTPUT = 64, 128, 64, 8, 64
random = numpy.random.default_rng(17)


def weights(*shape):
    return random.normal(0, 0.2, shape).astype(numpy.float32)


def both(name, *shape):
    return {f"{name}.weight": weights(*shape), f"{name}.bias": weights(shape[0])}


tensors = {
    **both("v.patch_embd", WIDTH, 3, PATCH, PATCH),
    "v.position_embd.weight": weights((IMAGE // PATCH) ** 2, WIDTH),
    **both("v.blk.0.ln1", WIDTH),
    **both("v.blk.0.attn_q", WIDTH, WIDTH),
    **both("v.blk.0.attn_k", WIDTH, WIDTH),
    **both("v.blk.0.attn_v", WIDTH, WIDTH),
    **both("v.blk.0.attn_out", WIDTH, WIDTH),
    **both("v.blk.0.ln2", WIDTH),
    **both("v.blk.0.ffn_up", INNER, WIDTH),
    **both("v.blk.0.ffn_down", WIDTH, INNER),
    **both("v.post_ln", WIDTH),
    "mm.soft_emb_norm.weight": weights(WIDTH),
    "mm.input_projection.weight": weights(WIDTH, OUTPUT),
}

model = GGUFWriter(sys.argv[1], "clip")
model.add_type("mmproj")
model.add_bool("clip.has_vision_encoder", True)
model.add_string("clip.projector_type", "gemma3")
model.add_bool("clip.use_gelu", True)
model.add_uint32("clip.vision.image_size", IMAGE)
model.add_uint32("clip.vision.patch_size", PATCH)
model.add_uint32("clip.vision.embedding_length", WIDTH)
model.add_uint32("clip.vision.feed_forward_length", INNER)
model.add_uint32("clip.vision.projection_dim", OUTPUT)
model.add_uint32("clip.vision.block_count", 1)
model.add_uint32("clip.vision.attention.head_count", 2)
model.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
model.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
model.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
for name, tensor in tensors.items():
    model.add_tensor(name, tensor)
model.write_header_to_file()
model.write_kv_data_to_file()
model.write_tensors_to_file()
model.close()
