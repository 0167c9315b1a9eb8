#!/usr/bin/env python3
"""What Hugging Face's Idefics2 and Fuyu image processors give for three small pictures: processor-golden.json beside this file.

Run: make_processor_golden.py   (transformers 5.17, torch, pillow). Pictures are drawn by formula, so that the test draws them too.
Pixel values are stored as the 8-bit values they come from, base64, (3, H, W); Idefics2's batch with its mask, Fuyu's patches.
"""
import base64
import json
import os

import numpy as np
from PIL import Image
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

SIZES = [(50, 20), (30, 70), (100, 64)]  # width, height
picture = lambda w, h: np.fromfunction(lambda y, x, c: (x * 7 + y * 13 + c * 50 + (x * y) % 31) % 256, (h, w, 3)).astype(np.uint8)
images = [Image.fromarray(picture(w, h)) for w, h in SIZES]
to_bytes = lambda a: np.rint((np.asarray(a, dtype=np.float64) * 0.5 + 0.5) * 255).astype(np.uint8)
b64 = lambda a: base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()

idefics2 = dict(size=dict(longest_edge=56, shortest_edge=28), do_image_splitting=False)
out = Idefics2ImageProcessorPil(**idefics2)([images], return_tensors='np')
pixels, mask = out['pixel_values'][0], out['pixel_attention_mask'][0]
golden = dict(sizes=SIZES, idefics2=dict(config=dict(image_processor_type='Idefics2ImageProcessor', **idefics2), shape=list(pixels.shape),
                                         pixels=b64(to_bytes(pixels) * mask[:, None].astype(np.uint8)), mask=b64(mask.astype(np.uint8))))

fuyu = dict(size=dict(height=60, width=90))
processor = FuyuImageProcessorPil(**fuyu)
cases = []
for image in images:
    one = processor([[image]])
    height, width = one['image_unpadded_heights'][0][0], one['image_unpadded_widths'][0][0]
    full = np.asarray(one['images'][0][0])
    high, wide = -(-height // 30) * 30, -(-width // 30) * 30
    patches = processor.patchify_image(full[:, :high, :wide])
    cases.append(dict(rows=high // 30, columns=wide // 30, patches=b64(to_bytes(patches))))
golden['fuyu'] = dict(config=dict(image_processor_type='FuyuImageProcessor', image_mean=0.5, image_std=0.5, patch_size=dict(height=30, width=30), **fuyu), cases=cases)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'processor-golden.json'), 'w') as file:
    json.dump(golden, file, separators=(',', ':'))
    file.write('\n')
