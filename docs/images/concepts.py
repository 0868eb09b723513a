"""Draw the pictures of docs/concepts.md from the shipped checkpoint: python docs/images/concepts.py [FOLDER]."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import vaex
from vaex.attention import attention_maps, latent_attention
from vaex.data.render import example_sprites
from vaex.viz import overlay, save_png

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
model = vaex.load("sprites")
images = torch.from_numpy(example_sprites(8)).float()[:, None]
with torch.no_grad():
    every = model(images)
latent = int(every.kl.mean(0).argmax())
strength = latent_attention(model, images, layer="conv3", latents=[latent]).amax((1, 2, 3))
place, other = int(strength.argmax()), int(strength.argmin())  # evidence that ReLU keeps, and that it drops
image = images[place : place + 1]
output = model(image, keep=["conv3"])
activation, mean = output.activations["conv3"], output.posterior.mean
gradient = torch.autograd.grad(mean[0, latent], activation, retain_graph=True)[0]
alpha = gradient.mean((2, 3))[0]
code = mean[0].detach()
grey = {"cmap": "gray", "vmin": 0, "vmax": 1}


def panel(figure, position, picture, title, **options):
    """Draw one picture (H, W) without axes and return it."""
    axes = figure.add_subplot(*position)
    shown = axes.imshow(picture.detach().numpy(), interpolation="nearest", **options)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    return shown


def bar(figure, pictures, label):
    """Draw the colour bar that pictures share below them."""
    low, high = pictures[0].get_clim()
    axes = [picture.axes for picture in pictures]
    ticks = sorted({low, 0, high})
    drawn = figure.colorbar(
        pictures[0], ax=axes, orientation="horizontal", aspect=16 * len(axes), pad=0.03, ticks=ticks
    )
    drawn.ax.set_xticklabels([f"{tick:.2g}" for tick in ticks], fontsize=7)
    drawn.set_label(label, fontsize=7)


figure = plt.figure(figsize=(8, 2.2), layout="constrained")
panel(figure, (1, 3, 1), image[0, 0], "image x", **grey)
bars = figure.add_subplot(1, 3, 2)
bars.bar(range(len(code)), code.numpy(), yerr=torch.exp(output.posterior.logvar[0] / 2).detach().numpy(), capsize=2)
bars.axhline(0, color="black", linewidth=0.5)
bars.set_title("code: mean and deviation of each latent", fontsize=9)
bars.set_xticks(range(len(code)), [f"z{i}" for i in range(len(code))], fontsize=7)
bars.tick_params(axis="y", labelsize=7)
bars.set_ylabel("in deviations of the prior", fontsize=7)
panel(figure, (1, 3, 3), output.reconstruction[0, 0], "reconstruction", **grey)
save_png(figure, folder / "concepts_vae.png")

weighted = (alpha[:, None, None] * activation[0]).detach()
top = weighted.abs().flatten(1).sum(1).argsort(descending=True)[:3].tolist()
largest = float(weighted[top].abs().max())
total = weighted.sum(0)
figure = plt.figure(figsize=(9, 2.5), layout="constrained")
options = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
drawn = [
    panel(figure, (1, 6, column), weighted[channel], f"channel {channel}\ntimes its weight", **options)
    for column, channel in enumerate(top, start=1)
]
bar(figure, drawn, "attention of one channel, signed")
most = float(total.abs().max())
summed = panel(
    figure, (1, 6, 4), total, f"sum of all {len(alpha)}\n(8 x 8 cells)", cmap="RdBu_r", vmin=-most, vmax=most
)
bar(figure, [summed], "attention, signed")
bar(figure, [panel(figure, (1, 6, 5), total.relu(), "ReLU", cmap="inferno", vmin=0, vmax=most)], "attention")
finished = latent_attention(model, image, layer="conv3", latents=[latent])
strongest = float(finished.max())
over = torch.from_numpy(overlay(image[0, 0].numpy(), finished[0, 0].numpy()))
over = panel(figure, (1, 6, 6), over, "enlarged,\nover the image", cmap="inferno", vmin=0, vmax=strongest)
bar(figure, [over], "attention")
save_png(figure, folder / "concepts_map.png")
torch.testing.assert_close(attention_maps(activation, mean[:, latent : latent + 1])[0, 0], total.relu())

figure = plt.figure(figsize=(8, 5), layout="constrained")
for row, at in enumerate([place, other]):
    one = images[at : at + 1]
    shown = {
        "ReLU": latent_attention(model, one, layer="conv3", latents=[latent]),
        "signed": latent_attention(model, one, layer="conv3", latents=[latent], rectify="none"),
        "target kl": latent_attention(model, one, layer="conv3", latents=[latent], target="kl"),
    }
    panel(figure, (2, 4, 4 * row + 1), one[0, 0], f"z{latent} = {every.posterior.mean[at, latent]:.2f}", **grey)
    for column, (title, found) in enumerate(shown.items(), start=2):
        bound = float(found.abs().max())
        low, colours = (-bound, "RdBu_r") if title == "signed" else (0, "inferno")
        where = (2, 4, 4 * row + column)
        bar(figure, [panel(figure, where, found[0, 0], title, cmap=colours, vmin=low, vmax=bound)], "attention")
save_png(figure, folder / "concepts_sign.png")

values = torch.linspace(-2, 2, 5)
codes = code.repeat(len(values), 1)
codes[:, latent] = values
with torch.no_grad():
    decoded = model.decode(codes).mean[:, 0]
    step = torch.zeros_like(code)
    step[latent] = 0.5
    change = (model.decode((code + step)[None]).mean - model.decode((code - step)[None]).mean).abs()[0, 0]
figure = plt.figure(figsize=(9, 2.2), layout="constrained")
for column, (value, picture) in enumerate(zip(values.tolist(), decoded, strict=True), start=1):
    panel(figure, (1, 7, column), picture, f"z{latent} = {value:g}", **grey)
colours = {"cmap": "inferno", "vmin": 0}
changed = panel(figure, (1, 7, 6), change, "change of the\ndecoded image", vmax=float(change.max()), **colours)
bar(figure, [changed], "pixel value")
bar(figure, [panel(figure, (1, 7, 7), finished[0, 0], "map of the\nencoder", vmax=strongest, **colours)], "attention")
save_png(figure, folder / "concepts_back.png")
