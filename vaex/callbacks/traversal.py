"""The traversal callback: what each latent does to a picture, beside where the encoder looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.attention.outputs import reconstruction_of
from vaex.callbacks.models import check_counts, check_options, model_at
from vaex.callbacks.pictures import Drawing, log_animation, log_picture, logged_step, picture_name
from vaex.columns import kl_of_maps, strongest, title_of
from vaex.errors import VaexError
from vaex.explanation import explain
from vaex.modules.batches import images_of
from vaex.probing import codes_of_latents

OPTIONS = ("layer", "method", "rectify", "fuse", "chunk")
"""Options of `vaex.explain` for the maps; they are of the mean of each latent, at the size of the image."""


def moved_codes(mean: Tensor, latent: int, values: Tensor) -> Tensor:
    """Return the code ``mean`` (1, D) with one latent set to each of ``values`` (V,): (V, D).

    Raises:
        VaexError: for a latent grid.
    """
    if mean.dim() != 2:
        raise VaexError(
            f"A traversal moves one latent of a code (1, D), and this model gives a latent grid {tuple(mean.shape)}; "
            "leave the traversal callback out."
        )
    codes = mean.repeat(len(values), 1)
    codes[:, latent] = values.to(codes)
    return codes


def decoded_traversals(
    model: nn.Module, mean: Tensor, latents: list[int], values: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """Return what ``model`` decodes as each of ``latents`` takes each of ``values``, (T, V, C, H, W).

    ``mean`` (1, D) is the code of an image of ``shape`` (C, H, W).

    Raises:
        VaexError: for a model without a decoder of images, or a latent grid.
    """
    rows = []
    with undisturbed(original(model), mean) as code:
        for latent in latents:
            codes = moved_codes(code, latent, values)
            found = reconstruction_of(original(model), codes, (len(codes), *shape))
            if found is None:
                raise VaexError(
                    f"{type(original(model)).__name__} decodes no images {shape} from a code, so there is no "
                    "traversal to draw; give it a method decode, or leave the traversal callback out."
                )
            rows.append(found.float())
    return torch.stack(rows)


def traversable(model: nn.Module, image: Tensor) -> bool:
    """Return whether ``model`` codes an ``image`` (1, C, H, W) by one number per latent and decodes images."""
    code = codes_of_latents(model, image)
    if code.dim() != 2:
        return False
    with undisturbed(original(model), code) as given:
        return reconstruction_of(original(model), given, (1, *image.shape[1:])) is not None


class Traversal(Drawing):
    """Draw the traversal of every latent, from the code of one image, in some validations and after the test.

    Each latent takes ``steps`` values from -``span`` to ``span`` (in units of the prior's standard deviation) while the
    others keep those of the posterior mean. Rows are the ``figure_latents`` latents of highest KL. ``maps`` adds the
    attention map of each latent over the image, by ``options`` (`OPTIONS`). ``image`` is the position in the first
    batch. ``figures/traversal_<stage>.png`` and ``.gif`` (all rows moving at once) go below ``folder`` (default: the
    Trainer's root folder), the PNG to every logger that takes images and the GIF to wandb, as
    ``traversal/<stage>/grid`` and ``traversal/<stage>/animation``. ``model`` as in `vaex.callbacks.Attention`.
    ``optional``: nothing is drawn of models that cannot be traversed, where there is an error otherwise.

    Raises:
        VaexError: for an option out of range or unknown; for a model without a decoder of images, and latent grids.
    """

    def __init__(
        self,
        model: str = "",
        *,
        steps: int = 11,
        span: float = 3.0,
        maps: bool = True,
        image: int = 0,
        figure_latents: int = 16,
        every_n_epochs: int = 5,
        folder: str | None = None,
        optional: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        own = ["model", "steps", "span", "maps", "image", "figure_latents", "every_n_epochs", "folder", "optional"]
        check_options(options, own, OPTIONS, "traversal")
        check_counts("traversal", steps=steps, figure_latents=figure_latents, every_n_epochs=every_n_epochs)
        if steps < 2 or not 0 < span < float("inf") or image < 0:
            raise VaexError(
                "The traversal callback needs steps of at least 2, a positive span and an image of 0 or more, got "
                f"{steps}, {span} and {image}."
            )
        self.model, self.steps, self.span, self.maps, self.image = model, steps, span, maps, image
        self.figure_latents, self.every_n_epochs, self.folder = figure_latents, every_n_epochs, folder
        self.optional, self.options = optional, options
        self._image: Tensor | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model, so that a wrong name ends the run before its first epoch."""
        model_at(pl_module, self.model)
        self._image = None

    def _remember(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx or dataloader_idx:
            return
        images = images_of(batch)
        if self.image >= len(images):
            raise VaexError(f"The traversal callback draws image {self.image} of a first batch of {len(images)}.")
        self._image = images[self.image : self.image + 1].clone()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the image."""
        self._remember(batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the image."""
        self._remember(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw every ``every_n_epochs`` epochs, after the last one, and outside of ``fit``."""
        self._draw_if_due(trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the image of the test."""
        self._draw(trainer, pl_module, "test")

    @rank_zero_only
    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._image is None:
            return
        from vaex.viz import figure_to_array, save_gif, save_png, traversal_figure, traversal_frames

        vae = model_at(pl_module, self.model)
        if self.optional and not traversable(vae, self._image):
            return
        explanation = explain(vae, self._image, **{"layer": None, **self.options})
        names = list(range(explanation.mean.shape[1]))
        rows = strongest(explanation, names, self.figure_latents)
        values = torch.linspace(-self.span, self.span, self.steps)
        shape = tuple(self._image.shape[1:])
        decoded = decoded_traversals(vae, explanation.mean, rows, values, shape).cpu().numpy()
        kl = kl_of_maps(explanation, names)
        titles = [title_of(latent, None if kl is None else float(kl[0, latent])) for latent in rows]
        maps = explanation.maps[0, rows].float().cpu().numpy() if self.maps else None
        picture = figure_to_array(
            traversal_figure(
                decoded, values=values.tolist(), titles=titles, image=self._image[0].float().cpu().numpy(), maps=maps
            )
        )
        name = picture_name(trainer, f"traversal_{stage}")
        folder = Path(self.folder or trainer.default_root_dir) / "figures"
        save_png(picture, folder / f"{name}.png")
        animation = save_gif(traversal_frames(decoded), folder / f"{name}.gif")
        for logger in trainer.loggers:
            log_picture(logger, f"traversal/{stage}/grid", picture, logged_step(trainer))
            log_animation(logger, f"traversal/{stage}/animation", animation, logged_step(trainer))
