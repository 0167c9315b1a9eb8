"""PyTorch eager, f32: the decoder with a preallocated cache and scaled_dot_product_attention (enable_gqa), in inference mode.

    python torch_contender.py CHECKPOINT THREADS

Speaks the lines of contender.ts. Has no scheduler of requests: `serve` is refused.
"""
import base64
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open

directory, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch.set_grad_enabled(False)
text = json.load(open(os.path.join(directory, 'config.json')))['text_config']
with safe_open(os.path.join(directory, 'model.safetensors'), 'pt') as file:
    names = [k for k in file.keys() if 'language_model.' in k]
    weights = {k.split('language_model.')[1].removeprefix('model.'): file.get_tensor(k) for k in names}
L, H, KV, D, EPS = (text[k] for k in ('num_hidden_layers', 'num_attention_heads', 'num_key_value_heads', 'head_dim', 'rms_norm_eps'))
layers = [{k.split(f'layers.{i}.')[1].removesuffix('.weight'): w for k, w in weights.items() if k.startswith(f'layers.{i}.')} for i in range(L)]
embed, last_norm = weights['embed_tokens.weight'], weights['norm.weight']
angles = torch.outer(torch.arange(text['max_position_embeddings']).float(), 1.0 / text['rope_theta'] ** (torch.arange(0, D, 2).float() / D))
COS, SIN = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rotate(x, start):
    cos, sin = COS[start:start + x.shape[2]], SIN[start:start + x.shape[2]]
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def forward(ids, start, keys, values):
    """Logits behind the last of ids [B, S] at positions start ...; keys and values [L, B, KV, T, D] are written in place."""
    B, S = ids.shape
    x = F.embedding(ids, embed)
    for i, w in enumerate(layers):
        h = F.rms_norm(x, x.shape[-1:], w['input_layernorm'], EPS)
        q = F.linear(h, w['self_attn.q_proj']).view(B, S, H, D).transpose(1, 2)
        k = F.linear(h, w['self_attn.k_proj']).view(B, S, KV, D).transpose(1, 2)
        v = F.linear(h, w['self_attn.v_proj']).view(B, S, KV, D).transpose(1, 2)
        keys[i, :, :, start:start + S] = rotate(k, start)
        values[i, :, :, start:start + S] = v
        # One new row sees everything; a prompt starts at 0, where the causal mask is the square one.
        o = F.scaled_dot_product_attention(rotate(q, start), keys[i, :, :, :start + S], values[i, :, :, :start + S], is_causal=S > 1, enable_gqa=True)
        x = x + F.linear(o.transpose(1, 2).reshape(B, S, H * D), w['self_attn.o_proj'])
        h = F.rms_norm(x, x.shape[-1:], w['post_attention_layernorm'], EPS)
        x = x + F.linear(F.silu(F.linear(h, w['mlp.gate_proj'])) * F.linear(h, w['mlp.up_proj']), w['mlp.down_proj'])
    return F.linear(F.rms_norm(x[:, -1], x.shape[-1:], last_norm, EPS), embed)


def caches(rows, length):
    return torch.zeros(L, rows, KV, length, D), torch.zeros(L, rows, KV, length, D)


prepared = None
scratch = caches(1, 2304)
for buffer in scratch:
    buffer.fill_(1.0)  # so that the pages are there before a clock runs


def stopwatch():
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: {'ms': (time.perf_counter() - wall) * 1000, 'cpuMs': (time.process_time() - cpu) * 1000}


def prepare(prompts):
    # One prompt is read; its keys and values are copied for the other rows.
    global prepared
    rows, length = len(prompts), len(prompts[0])
    keys, values = caches(rows, length + 256)
    forward(torch.tensor(prompts[:1]), 0, *scratch)
    keys[:, :, :, :length], values[:, :, :, :length] = (one[:, :, :, :length] for one in scratch)
    prepared = rows, length, keys, values
    decode(0)


def decode(ms):
    rows, length, keys, values = prepared
    token = torch.full((rows, 1), 7)
    clock, steps = stopwatch(), 0
    while steps < 250 and (steps < 2 or clock()['ms'] < ms):
        token = forward(token, length + steps, keys, values).argmax(-1, keepdim=True)
        steps += 1
    return {'tokens': steps * rows, **clock()}


def answer(call):
    global prepared
    op = call['op']
    if op == 'logits':
        # The last id goes through the cache, as in decoding.
        ids = torch.tensor([call['ids']])
        forward(ids[:, :-1], 0, *scratch)
        logits = forward(ids[:, -1:], ids.shape[1] - 1, *scratch)
        return {'logits': base64.b64encode(logits.numpy().tobytes()).decode()}
    if op == 'prefill':
        clock = stopwatch()
        forward(torch.tensor([call['ids']]), 0, *scratch).argmax(-1)
        return {'tokens': len(call['ids']), **clock()}
    if op == 'prepare':
        prepare(call['prompts'])
        return {}
    if op == 'decode':
        return decode(call['ms'])
    if op == 'finish':
        prepared = None
        return {}
    raise ValueError(f'PyTorch eager has no {op}')


def tell(message):
    peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024
    print(json.dumps({**message, 'peakRssMb': peak}), flush=True)


tell({})
with open('/proc/self/clear_refs', 'w') as peak_reset:
    peak_reset.write('5')  # peaks from here on are those of running, without loading
for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:
        result = {'error': f'{type(error).__name__}: {error}'}
    tell(result)
