#!/usr/bin/env python3
"""Load an adapter folder onto a base checkpoint with Hugging Face PEFT and compare logits.

Usage: check_peft.py BASE ADAPTER CASE LOGITS   CASE holds inputs.safetensors, LOGITS a safetensors file with `logits` [B, T, V].
Prints one line of JSON: {"error": largest absolute difference at attended positions, "tensors": adapter tensors PEFT loaded}.
"""
import json
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

base, adapter, case, wanted = sys.argv[1:5]
torch.set_num_threads(1)
model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32, attn_implementation='eager').eval()
model = PeftModel.from_pretrained(model, adapter).eval()
inputs = load_file(f'{case}/inputs.safetensors')
inputs.pop('labels', None)
with torch.no_grad():
    logits = model(**inputs).logits
want = load_file(wanted)['logits'].reshape(logits.shape)
seen = inputs['attention_mask'].bool()
count = sum('lora_' in name for name, _ in model.named_parameters())
print(json.dumps({'error': float((logits - want)[seen].abs().max()), 'tensors': count}))
