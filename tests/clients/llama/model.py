"""Writes a llama model of one layer with random weights, which answers nonsense at once: model.py FILE"""

import sys

import numpy
from gguf import GGUFWriter, TokenType

WIDTH, HEADS, INNER, CONTEXT = 64, 2, 128, 8192
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

# A token for each byte, after the three that every such vocabulary has. The end is 2: load.py keeps the model from it.
vocabulary = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
vocabulary += [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
random = numpy.random.default_rng(17)


def weights(*shape):
    return random.normal(0, 0.2, shape).astype(numpy.float32)


ones = numpy.ones(WIDTH, numpy.float32)
tensors = {
    "token_embd": weights(len(vocabulary), WIDTH),
    "output_norm": ones,
    "output": weights(len(vocabulary), WIDTH),
    "blk.0.attn_norm": ones,
    "blk.0.attn_q": weights(WIDTH, WIDTH),
    "blk.0.attn_k": weights(WIDTH, WIDTH),
    "blk.0.attn_v": weights(WIDTH, WIDTH),
    "blk.0.attn_output": weights(WIDTH, WIDTH),
    "blk.0.ffn_norm": ones,
    "blk.0.ffn_gate": weights(INNER, WIDTH),
    "blk.0.ffn_up": weights(INNER, WIDTH),
    "blk.0.ffn_down": weights(WIDTH, INNER),
}

model = GGUFWriter(sys.argv[1], "llama")
model.add_context_length(CONTEXT)
model.add_embedding_length(WIDTH)
model.add_block_count(1)
model.add_feed_forward_length(INNER)
model.add_head_count(HEADS)
model.add_layer_norm_rms_eps(1e-5)
model.add_rope_dimension_count(WIDTH // HEADS)
model.add_vocab_size(len(vocabulary))
model.add_tokenizer_model("llama")
model.add_token_list([text for text, _ in vocabulary])
model.add_token_types([kind for _, kind in vocabulary])
model.add_token_scores([0.0] * len(vocabulary))
model.add_bos_token_id(1)
model.add_eos_token_id(2)
model.add_chat_template(TEMPLATE)
for name, tensor in tensors.items():
    model.add_tensor(f"{name}.weight", tensor)
model.write_header_to_file()
model.write_kv_data_to_file()
model.write_tensors_to_file()
model.close()
