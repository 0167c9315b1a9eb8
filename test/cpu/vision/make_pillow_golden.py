#!/usr/bin/env python3
"""Writes pillow-golden.json: small synthetic pictures in every pixel format we accept, with the pixels Pillow reads from them.

Needs: pillow (made with 12.3.0). Run: make_pillow_golden.py OUT.json
files     name, the file (base64), mode, size and SHA-256 of Image.open(f).convert('RGB'), and of the same after ImageOps.exif_transpose
resizes   SHA-256 of Image.resize on rgb.png, and on base.jpg
"""
import base64, hashlib, io, json, random, struct, sys, zlib
from PIL import Image, ImageCms, ImageOps

r = random.Random(3)
files = {}


def noise(w, h):
    im = Image.new('RGB', (w, h))
    im.putdata([(r.randrange(256), r.randrange(256), (x * 5) % 256) for x in range(w * h)])
    return im


def save(name, im, **options):
    f = io.BytesIO()
    im.save(f, {'jpg': 'JPEG', 'png': 'PNG', 'gif': 'GIF', 'webp': 'WEBP'}[name.split('.')[1]], **options)
    files[name] = f.getvalue()


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(name, w, h, depth, colour, row_bytes, before=b''):
    rows = b''.join(b'\0' + bytes(r.randrange(256) for _ in range(row_bytes)) for _ in range(h))
    header = struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0)
    files[name] = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + before + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


rough, smooth = noise(37, 29), noise(9, 7).resize((40, 30), Image.BICUBIC)
save('rgb.png', rough)
for name, options in dict(base={}, prog=dict(progressive=True), s444=dict(subsampling=0), s422=dict(subsampling=1), q20=dict(quality=20)).items():
    save(f'{name}.jpg', smooth, **options)
save('grey.jpg', smooth.convert('L'))
save('cmyk.jpg', smooth.convert('CMYK'))
save('odd.jpg', smooth.resize((31, 17)))
save('grey.png', rough.convert('L'))
save('bit.png', rough.convert('1'))
for mode in ('LA', 'RGBA'):
    im = rough.convert(mode)
    im.putalpha(rough.split()[1])
    save(f'{mode.lower()}.png', im)
save('rgba.webp', im, lossless=True, exact=True)
save('rgb.webp', rough, lossless=True)
save('lossy.webp', smooth, quality=80)
few = rough.quantize(17)
save('palette.png', few)
save('palette-trns.png', few, transparency=3)
save('palette.gif', few)
frames = [noise(12, 12) for _ in range(3)]
save('animated.gif', frames[0], save_all=True, append_images=frames[1:])
save('animated.webp', frames[0], save_all=True, append_images=frames[1:], lossless=True)
png('rgb16.png', 9, 7, 16, 2, 54)
png('rgba16.png', 9, 7, 16, 6, 72)
png('la16.png', 9, 7, 16, 4, 36)
png('grey2.png', 8, 7, 2, 0, 2)
png('gamma.png', 9, 7, 8, 2, 27, chunk(b'gAMA', struct.pack('>I', 100000)))
png('colour-key.png', 9, 7, 8, 2, 27, chunk(b'tRNS', b'\0\1\0\2\0\3'))
save('profile.jpg', smooth, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(f'exif{orientation}.jpg', smooth, exif=exif)


def digest(im):
    return hashlib.sha256(im.tobytes()).hexdigest()


out = dict(files=[], resizes=[])
for name, data in files.items():
    im = Image.open(io.BytesIO(data))
    turned = ImageOps.exif_transpose(im).convert('RGB')
    mode, plain = im.mode, im.convert('RGB')
    out['files'].append(dict(name=name, mode=mode, width=plain.width, height=plain.height, sha256=digest(plain),
                             turned=dict(width=turned.width, height=turned.height, sha256=digest(turned)), base64=base64.b64encode(data).decode()))
filters = dict(box=Image.BOX, bilinear=Image.BILINEAR, hamming=Image.HAMMING, bicubic=Image.BICUBIC, lanczos=Image.LANCZOS)
for source in ('rgb.png', 'base.jpg'):
    im = Image.open(io.BytesIO(files[source])).convert('RGB')
    for size in [im.size, (1, 1), (84, 84), (10, 7), (36, im.height), (im.width, 5), (3, 100), (300, 2), (im.width - 1, im.height + 1), (224, 224)]:
        for name, number in filters.items():
            out['resizes'].append(dict(source=source, width=size[0], height=size[1], filter=name, sha256=digest(im.resize(size, number))))
json.dump(out, open(sys.argv[1], 'w'), indent=0)
print(len(files), 'files', len(out['resizes']), 'resizes')
