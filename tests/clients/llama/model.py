"""Writes a llama model with random weights, which answers nonsense: model.py FILE [WIDTH LAYERS [endless]]

Of width 64 and one layer it answers at once. Each byte is a token. It calls tools as Qwen does, without the line breaks; to call a
tool, give token 259 a bias. The ends are 256 and 258: forbid both, and an answer goes on until its context is full; `endless`
forbids them itself.
"""

import sys

import numpy
from gguf import GGUFWriter, TokenType

HEADS, CONTEXT = 2, 16384
WIDTH, LAYERS = map(int, sys.argv[2:4] or (64, 1))
ENDS = 256, 258
INNER = 2 * WIDTH
TEMPLATE = """
{%- if tools %}{{- '<|im_start|>system\\nCall functions within <tools></tools>:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<tool_call>{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
{{- tool_call.arguments | tojson }}{{- '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# GPT-2's alphabet of bytes: those that print are themselves, the others are characters from 256 on.
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
vocabulary = [(chr(byte), TokenType.NORMAL) for byte in printable]
vocabulary += [(chr(256 + n), TokenType.NORMAL) for n in range(256 - len(printable))]
vocabulary += [(text, TokenType.CONTROL) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
vocabulary += [(text, TokenType.USER_DEFINED) for text in ("<tool_call>", "</tool_call>")]
random = numpy.random.default_rng(17)


def weights(*shape):
    return random.normal(0, 0.2, shape).astype(numpy.float32)


ones = numpy.ones(WIDTH, numpy.float32)
tensors = {
    "token_embd": weights(len(vocabulary), WIDTH),
    "output_norm": ones,
    "output": weights(len(vocabulary), WIDTH),
}
for layer in range(LAYERS):
    tensors |= {
        f"blk.{layer}.attn_norm": ones,
        f"blk.{layer}.attn_q": weights(WIDTH, WIDTH),
        f"blk.{layer}.attn_k": weights(WIDTH, WIDTH),
        f"blk.{layer}.attn_v": weights(WIDTH, WIDTH),
        f"blk.{layer}.attn_output": weights(WIDTH, WIDTH),
        f"blk.{layer}.ffn_norm": ones,
        f"blk.{layer}.ffn_gate": weights(INNER, WIDTH),
        f"blk.{layer}.ffn_up": weights(INNER, WIDTH),
        f"blk.{layer}.ffn_down": weights(WIDTH, INNER),
    }

if sys.argv[4:] == ["endless"]:
    # The first value of each state is the same positive one, which makes the ends as unlikely as can be.
    tensors["token_embd"][:, 0] = 4
    for layer in range(LAYERS):
        tensors[f"blk.{layer}.attn_output"][0] = tensors[f"blk.{layer}.ffn_down"][0] = 0
    for end in ENDS:
        tensors["output"][end] = 0
        tensors["output"][end, 0] = -100

model = GGUFWriter(sys.argv[1], "llama")
model.add_context_length(CONTEXT)
model.add_embedding_length(WIDTH)
model.add_block_count(LAYERS)
model.add_feed_forward_length(INNER)
model.add_head_count(HEADS)
model.add_layer_norm_rms_eps(1e-5)
model.add_rope_dimension_count(WIDTH // HEADS)
model.add_vocab_size(len(vocabulary))
model.add_tokenizer_model("gpt2")
model.add_tokenizer_pre("gpt-2")
model.add_token_list([text for text, _ in vocabulary])
model.add_token_types([kind for _, kind in vocabulary])
model.add_token_merges(["t h", "i n"])
model.add_bos_token_id(ENDS[0])
model.add_eos_token_id(ENDS[1])
model.add_add_bos_token(False)
model.add_chat_template(TEMPLATE)
for name, tensor in tensors.items():
    model.add_tensor(f"{name}.weight", tensor)
model.write_header_to_file()
model.write_kv_data_to_file()
model.write_tensors_to_file()
model.close()
