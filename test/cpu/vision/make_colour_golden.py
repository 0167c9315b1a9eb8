#!/usr/bin/env python3
"""Writes colour-golden.json: pictures with colour profiles built here, and AVIF, with the pixels that Pillow and Little CMS make of them.

Needs: pillow with AVIF and Little CMS (made with 12.3.0). Run: make_colour_golden.py OUT.json
managed   pixels (base64) after the profile was applied (perceptual intent, to sRGB) and the picture turned upright
stored    pixels of convert('RGB'), upright too
"""
import base64, io, json, random, struct, sys
from PIL import Image, ImageCms, ImageFilter, ImageOps

r=random.Random(5)
def s15(v): return struct.pack('>i', round(v*65536))
def xyz(v): return b'XYZ \0\0\0\0'+b''.join(s15(x) for x in v)
def gamma(g): return b'curv\0\0\0\0'+struct.pack('>IH',1,round(g*256))+b'\0\0'
def para(*p):
    kind={1:0,3:1,4:2,5:3,7:4}[len(p)]
    return b'para\0\0\0\0'+struct.pack('>HH',kind,0)+b''.join(s15(x) for x in p)
def profile(space, tags, device=b'mntr'):
    tags=[(b'desc', b'desc\0\0\0\0'+struct.pack('>I',5)+b'test\0'+bytes(4+4+2+1+67)),(b'cprt',b'text\0\0\0\0none\0'),(b'wtpt',xyz((0.9642,1,0.8249)))]+tags
    at=128+4+12*len(tags); table=b''; data=b''
    for sig,d in tags:
        d+=bytes(-len(d)%4); table+=sig+struct.pack('>II',at+len(data),len(d)); data+=d
    body=struct.pack('>I',len(tags))+table+data
    h=bytearray(128); struct.pack_into('>I',h,0,128+len(body)); h[8:12]=b'\x02\x40\0\0'; h[12:16]=device; h[16:20]=space; h[20:24]=b'XYZ '; h[36:40]=b'acsp'
    h[68:80]=s15(0.9642)+s15(1)+s15(0.8249)
    return bytes(h)+body
def rgb(cols, trc): return profile(b'RGB ', [(n,xyz(c)) for n,c in zip((b'rXYZ',b'gXYZ',b'bXYZ'),cols)]+[(n,trc) for n in (b'rTRC',b'gTRC',b'bTRC')])
SRGB=para(2.4,1/1.055,0.055/1.055,1/12.92,0.04045)
P={
 'srgb':rgb([(0.4361,0.2225,0.0139),(0.3851,0.7169,0.0971),(0.1431,0.0606,0.7139)],SRGB),
 'display-p3':rgb([(0.5151,0.2412,-0.0011),(0.2919,0.6922,0.0419),(0.1572,0.0666,0.7841)],SRGB),
 'adobe-rgb':rgb([(0.6097,0.3111,0.0195),(0.2053,0.6257,0.0609),(0.1492,0.0632,0.7446)],gamma(2.19921875)),
 'prophoto':rgb([(0.7977,0.2880,0.0),(0.1352,0.7119,0.0),(0.0313,0.0001,0.8249)],gamma(1.8)),
 'grey-18':profile(b'GRAY',[(b'kTRC',gamma(1.8))]),
 'grey-srgb':profile(b'GRAY',[(b'kTRC',SRGB)]),
}
target=ImageCms.createProfile('sRGB')
def noise(w,h):
    im=Image.new('RGB',(w,h)); im.putdata([(r.randrange(256),r.randrange(256),r.randrange(256)) for _ in range(w*h)]); return im
out=[]
for name,prof in P.items():
    im=noise(24,16)
    if name.startswith('grey'): im=im.convert('L')
    f=io.BytesIO(); im.save(f,'PNG',icc_profile=prof)
    ref=ImageCms.profileToProfile(im, ImageCms.ImageCmsProfile(io.BytesIO(prof)), target, outputMode='RGB', renderingIntent=0)
    out.append(dict(name=name+'.png',width=24,height=16,base64=base64.b64encode(f.getvalue()).decode(),managed=base64.b64encode(ref.tobytes()).decode(),stored=base64.b64encode(im.convert('RGB').tobytes()).decode()))
for name, mode, orientation, options in (('plain', 'RGB', 1, {}), ('s420', 'RGB', 1, dict(subsampling='4:2:0')), ('grey', 'L', 1, {}), ('alpha', 'RGBA', 1, {}), ('turned', 'RGB', 6, {}), ('mirrored', 'RGB', 2, {})):
    im=noise(32,20).filter(ImageFilter.GaussianBlur(3)).convert(mode)
    if mode=='RGBA': im.putalpha(Image.linear_gradient('L').resize((32,20)))
    exif=Image.Exif(); exif[0x0112]=orientation
    f=io.BytesIO(); im.save(f,'AVIF',quality=95,exif=exif,**options)
    seen=ImageOps.exif_transpose(Image.open(io.BytesIO(f.getvalue()))).convert('RGB')
    pixels=base64.b64encode(seen.tobytes()).decode()
    out.append(dict(name=name+'.avif',width=seen.width,height=seen.height,base64=base64.b64encode(f.getvalue()).decode(),managed=pixels,stored=pixels))
json.dump(out,open(sys.argv[1],'w'),indent=0)
