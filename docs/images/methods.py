"""Draw every method on one image of a checkpoint: python docs/images/methods.py CHECKPOINT LAYER IMAGES.npy OUT.png."""

import sys

import numpy as np
import torch

import vaex
from vaex.attention import IMAGE_METHODS, METHODS, latent_attention
from vaex.viz import attention_figure, save_png

checkpoint, layer, file, out = sys.argv[1:]
model = vaex.load(checkpoint)
images = torch.from_numpy(np.load(file)).float()  # (1, C, H, W) in [0, 1]
with torch.no_grad():
    output = model(images)
latents = output.kl[0].argsort(descending=True)[:3].tolist()
methods = [*METHODS, *IMAGE_METHODS]
maps = torch.cat([latent_attention(model, images, layer, method=m, latents=latents, rectify="none") for m in methods])
maps = maps.unflatten(0, (len(methods), 1))[:, 0].transpose(0, 1)  # (3, methods, H, W)
maps = maps / maps.abs().amax((2, 3), keepdim=True)  # methods have units of their own
figure = attention_figure(
    images.expand(3, -1, -1, -1).numpy(),
    output.reconstruction.expand(3, -1, -1, -1).numpy(),
    maps.numpy(),
    titles=[m.replace("_", " ") for m in methods],
    rows=[f"z{i}" for i in latents],
    label="map / its largest value",
)
save_png(figure, out)
