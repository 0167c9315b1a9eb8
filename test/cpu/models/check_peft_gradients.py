#!/usr/bin/env python3
"""Gradients of an adapter's tensors as Hugging Face PEFT computes them.

Usage: check_peft_gradients.py BASE ADAPTER CASE OUT   CASE holds inputs.safetensors with labels. Writes OUT, a safetensors file with
`loss` [1] and the gradient of the mean loss for every adapter tensor under its name in adapter_model.safetensors.
"""
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

base, adapter, case, out = sys.argv[1:5]
torch.set_num_threads(1)
model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32, attn_implementation='eager').eval()
model = PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()
loss = model(**load_file(f'{case}/inputs.safetensors')).loss
loss.backward()
stored = lambda name: name.replace('.default', '').replace('lora_magnitude_vector.weight', 'lora_magnitude_vector')
grads = {stored(n): p.grad.contiguous() for n, p in model.named_parameters() if 'lora_' in n}
save_file({'loss': loss.detach().reshape(1), **grads}, out, metadata={'format': 'pt'})
