"""One measured process of train-throughput.ts: the same optimizer steps in PyTorch eager.

    python train_torch.py DIR CASE_JSON THREADS WARMUP STEPS [--all-rows]

The model is written with PyTorch's fast paths (scaled_dot_product_attention with is_causal, fused AdamW, rms_norm), and, like the
engine it is compared with, computes the output head at supervised positions only (--all-rows: everywhere, as transformers does).
Ends with one JSON line.
"""
import json
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

directory, case, threads, warmup, steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
ALL_ROWS = '--all-rows' in sys.argv
torch.set_num_threads(threads)
started = time.perf_counter()
config = json.load(open(os.path.join(directory, 'config.json')))
text, vision = config['text_config'], config['vision_config']
weights = {k: torch.nn.Parameter(v, requires_grad=False) for k, v in load_file(os.path.join(directory, 'model.safetensors')).items()}
lora = {}
if case['lora']:
    for k, v in load_file(os.path.join(directory, 'adapter', 'adapter_model.safetensors')).items():
        lora[k.replace('base_model.model.model.language_model.', 'language_model.model.')] = torch.nn.Parameter(v)
    scaling = case['lora']['alpha'] / case['lora']['r']
if case['train'] == 'all':
    trained = list(weights.values())
else:
    trained = [p for k, p in weights.items() if k.startswith('multi_modal_projector.')] + list(lora.values())
for p in trained:
    p.requires_grad_(True)


def linear(x, name, bias=False):
    y = F.linear(x, weights[name + '.weight'], weights[name + '.bias'] if bias else None)
    if name + '.lora_A.weight' in lora:
        y = y + F.linear(F.linear(x, lora[name + '.lora_A.weight']), lora[name + '.lora_B.weight']) * scaling
    return y


def layer_norm(x, name):
    return F.layer_norm(x, x.shape[-1:], weights[name + '.weight'], weights[name + '.bias'], vision['layer_norm_eps'])


def rms_norm(x, name):
    return F.rms_norm(x, x.shape[-1:], weights[name + '.weight'], text['rms_norm_eps'])


def heads(x, count):
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def tower(pixels):
    v = 'vision_tower.vision_model.'
    x = F.conv2d(pixels, weights[v + 'embeddings.patch_embedding.weight'], weights[v + 'embeddings.patch_embedding.bias'], stride=vision['patch_size'])
    x = x.flatten(2).transpose(1, 2) + weights[v + 'embeddings.position_embedding.weight']
    for i in range(vision['num_hidden_layers']):
        n = f'{v}encoder.layers.{i}.'
        h = layer_norm(x, n + 'layer_norm1')
        q, k, u = (heads(linear(h, f'{n}self_attn.{p}_proj', True), vision['num_attention_heads']) for p in 'qkv')
        o = F.scaled_dot_product_attention(q, k, u).transpose(1, 2).flatten(2)
        x = x + linear(o, n + 'self_attn.out_proj', True)
        h = layer_norm(x, n + 'layer_norm2')
        x = x + linear(F.gelu(linear(h, n + 'mlp.fc1', True), approximate='tanh'), n + 'mlp.fc2', True)
    x = F.gelu(linear(x, 'multi_modal_projector.linear_1', True))
    return linear(x, 'multi_modal_projector.linear_2', True)


D = text['head_dim']
angles = torch.outer(torch.arange(text['max_position_embeddings']).float(), 1.0 / text['rope_theta'] ** (torch.arange(0, D, 2).float() / D))
COS, SIN = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rotate(x):
    s = x.shape[2]
    a, b = x.chunk(2, -1)
    return x * COS[:s] + torch.cat((-b, a), -1) * SIN[:s]


def forward(ids, pixels):
    m = 'language_model.model.'
    x = F.embedding(ids, weights[m + 'embed_tokens.weight'])
    mask = (ids == config['image_token_index']).unsqueeze(-1)
    x = x.masked_scatter(mask, tower(pixels))
    for i in range(text['num_hidden_layers']):
        n = f'{m}layers.{i}.'
        h = rms_norm(x, n + 'input_layernorm')
        q = rotate(heads(linear(h, n + 'self_attn.q_proj'), text['num_attention_heads']))
        k = rotate(heads(linear(h, n + 'self_attn.k_proj'), text['num_key_value_heads']))
        v = heads(linear(h, n + 'self_attn.v_proj'), text['num_key_value_heads'])
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear(o.transpose(1, 2).flatten(2), n + 'self_attn.o_proj')
        h = rms_norm(x, n + 'post_attention_layernorm')
        x = x + linear(F.silu(linear(h, n + 'mlp.gate_proj')) * linear(h, n + 'mlp.up_proj'), n + 'mlp.down_proj')
    return x


def loss_of(ids, labels, pixels, count):
    x = forward(ids, pixels)[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    if not ALL_ROWS:
        keep = (targets != -100).nonzero().squeeze(1)
        x, targets = x[keep], targets[keep]
    logits = F.linear(rms_norm(x, 'language_model.model.norm'), weights['language_model.lm_head.weight'])
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction='sum') / count


batch = load_file(os.path.join(directory, 'batch.safetensors'))
count = int((batch['labels'] != -100).sum())
size, images = case['microBatch'], case['imagesPerRow']
micro = [(batch['ids'][i:i + size], batch['labels'][i:i + size], batch['pixel_values'][i * images:(i + size) * images].contiguous())
         for i in range(0, case['batch'], size)]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
ready = (time.perf_counter() - started) * 1000
wall, cpu, losses = [], [], []
for step in range(warmup + steps):
    c, t = time.process_time(), time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for ids, labels, pixels in micro:
        loss = loss_of(ids, labels, pixels, count)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    losses.append(total)
    if step >= warmup:
        wall.append((time.perf_counter() - t) * 1000)
        cpu.append((time.process_time() - c) * 1000)
print(json.dumps(dict(wallMs=wall, cpuMs=cpu, losses=losses, peakRssMb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, readyMs=ready,
                      torch=torch.__version__)))
