"""One measured process of train-throughput.ts: the same optimizer steps with Hugging Face transformers and PEFT.

    python train_peft.py DIR CASE_JSON THREADS WARMUP STEPS

This is the model as its users train it on a processor: `LlavaForConditionalGeneration` with its own attention, loss and padding, PEFT's
LoRA on the decoder's linear layers, `torch.optim.AdamW`. The conversations of a micro-batch are padded to the longest of them, as
`DataCollatorForSeq2Seq` and Mantis's own collator do.

A quantised base ("basePrecision": "int8" or "int4") is bitsandbytes' algorithm in PyTorch, since that library has no build for
processors here: codes of 8 or of two times 4 bits with one scale for each 32 values are widened to f32 for the product, and again for the
product of the backward pass. The codes are those of the checkpoint's values, symmetric, rounded to nearest.

Ends with one JSON line.
"""
import json
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
directory, case, threads, warmup, steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(threads)
torch.manual_seed(0)
started = time.perf_counter()
BLOCK = 32


class Widened(torch.autograd.Function):
    """x Wᵀ over codes; W is made again in the backward pass, as in bitsandbytes' MatMul4Bit."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return F.linear(x, layer.widen())

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.layer.widen(), None


class QuantLinear(torch.nn.Linear):
    def quantize(self, bits):
        self.bits = bits
        w = self.weight.data
        rows, width = w.shape
        blocks = F.pad(w, (0, -width % BLOCK)).view(rows, -1, BLOCK)
        top = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
        half = 1 << (bits - 1)
        scale = top / -half
        q = torch.where(scale == 0, torch.zeros_like(blocks), blocks / scale).round().clamp(-half, half - 1).to(torch.int8)
        self.register_buffer('scale', scale.contiguous())
        if bits == 4:
            u = (q + 8).to(torch.uint8)
            self.register_buffer('codes', u[..., :BLOCK // 2] | (u[..., BLOCK // 2:] << 4))
        else:
            self.register_buffer('codes', q)
        self.width = width
        self.weight = torch.nn.Parameter(torch.empty(rows, 0), requires_grad=False)
        return self

    def widen(self):
        if self.bits == 4:
            q = torch.cat((self.codes & 15, self.codes >> 4), 2).to(torch.float32).sub_(8)
        else:
            q = self.codes.to(torch.float32)
        return q.mul_(self.scale).view(q.shape[0], -1)[:, :self.width]

    def forward(self, x):
        return Widened.apply(x, self)


model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).train()
targets = case['targets']
for p in model.parameters():
    p.requires_grad_(False)
if case['basePrecision'] != 'f32':
    bits = {'int8': 8, 'int4': 4}[case['basePrecision']]
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and 'language_model' in name and 'lora_' not in name:
            module.__class__ = QuantLinear
            module.quantize(bits)
    model.lm_head.__class__ = QuantLinear
    model.lm_head.quantize(8)
if case['lora']:
    model = get_peft_model(model, LoraConfig(r=case['lora']['r'], lora_alpha=case['lora']['alpha'], lora_dropout=0.0,
                                             target_modules='.*language_model.*\\.(' + '|'.join(targets) + ')'))
    own = load_file(os.path.join(directory, 'adapter', 'adapter_model.safetensors'))
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in own.items():
            if '.lora_' in name:
                state[name.replace('.weight', '.default.weight')].copy_(value)
for name, p in model.named_parameters():
    if case['train'] != 'lora' and 'multi_modal_projector' in name:
        p.requires_grad_(True)
    if case['train'] == 'full' and ('language_model' in name or 'lm_head' in name):
        p.requires_grad_(True)
trained = [p for p in model.parameters() if p.requires_grad]

batch = load_file(os.path.join(directory, 'batch.safetensors'))
lengths, images = case['lengths'], case['images']
count = int((batch['labels'] != -100).sum())
row = picture = 0
micro = []
for first in range(0, len(lengths), case['microBatch']):
    own = lengths[first:first + case['microBatch']]
    longest = max(own)
    ids = torch.zeros(len(own), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for i, length in enumerate(own):
        ids[i, :length] = batch['ids'][row:row + length]
        labels[i, :length] = batch['labels'][row:row + length]
        mask[i, :length] = 1
        row += length
    pictures = sum(images[first:first + case['microBatch']])
    micro.append(dict(input_ids=ids, labels=labels, attention_mask=mask, num_items_in_batch=count,
                      pixel_values=batch['pixel_values'][picture:picture + pictures].contiguous()))
    picture += pictures
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
ready = (time.perf_counter() - started) * 1000
wall, cpu, losses = [], [], []
for step in range(warmup + steps):
    c, t = time.process_time(), time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for feeds in micro:
        loss = model(**feeds, use_cache=False).loss
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    losses.append(total)
    if step >= warmup:
        wall.append((time.perf_counter() - t) * 1000)
        cpu.append((time.process_time() - c) * 1000)
import peft
import transformers
print(json.dumps(dict(wallMs=wall, cpuMs=cpu, losses=losses, peakRssMb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, readyMs=ready,
                      trained=sum(p.numel() for p in trained), torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__)))
