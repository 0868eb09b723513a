"""Overlays against the blending formula written out for single pixels, and what a reader needs of them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from vaex.errors import VaexError
from vaex.viz import overlay
from vaex.viz.overlays import DARKEST, DIVERGING, GREY_RANGE, SEQUENTIAL


def _luminance(colour: np.ndarray) -> np.ndarray:
    """CIE lightness L* of sRGB colours (..., 3) in [0, 1]."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(116 * np.cbrt(np.maximum(y, 0.008856)) - 16)


def test_one_pixel_by_hand() -> None:
    image, value, opacity = np.full((1, 1), 0.6), np.full((1, 1), 0.5), 0.8
    alpha = opacity * np.sqrt(0.25)  # 0.5 of vmax 2
    colour = np.array(colormaps["viridis"](DARKEST + (1 - DARKEST) * 64 / 255)[:3])  # 0.25 * 255 rounds to 64
    under = GREY_RANGE[0] + (GREY_RANGE[1] - GREY_RANGE[0]) * 0.6
    expected = np.rint(255 * ((1 - alpha) * under + alpha * colour))
    drawn = overlay(image, value, vmax=2.0, opacity=opacity, colormap="viridis")
    assert drawn.dtype == np.uint8
    assert np.abs(drawn[0, 0] - expected).max() <= 1  # the table has 256 steps


def test_zero_shows_the_image_alone_in_grey() -> None:
    image = np.random.default_rng(0).random((5, 4, 3))
    drawn = overlay(image, np.zeros((5, 4)))
    assert np.ptp(drawn, axis=2).max() == 0  # no hue
    brightness = image @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(drawn[..., 0].ravel(), brightness.ravel())[0, 1] > 0.999
    assert np.array_equal(drawn, overlay(brightness, np.zeros((5, 4))))
    assert np.array_equal(drawn, overlay(brightness[..., None], np.zeros((5, 4))))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e-45, 3.0])
def test_flat_maps_have_colours(value: float, signed: bool) -> None:
    drawn = overlay(np.full((3, 3), 0.5), np.full((3, 3), value), signed=signed)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
    assert (np.ptp(drawn[0, 0]) > 30) == (value == 3.0)  # flat but high: full colour; empty: the grey image


def test_one_scale_makes_maps_comparable() -> None:
    image, weak, strong = np.full((2, 2), 0.5), np.full((2, 2), 0.1), np.full((2, 2), 1.0)
    assert np.array_equal(overlay(image, weak), overlay(image, strong))  # each on its own scale
    assert not np.array_equal(overlay(image, weak, vmax=1.0), overlay(image, strong, vmax=1.0))
    assert np.array_equal(overlay(image, strong * 7, vmax=1.0), overlay(image, strong, vmax=1.0))  # cut at vmax


def test_the_image_stays_readable_under_full_colour() -> None:
    image = np.array([[0.0, 1.0]])
    drawn = overlay(image, np.ones((1, 2))).astype(int)
    assert (drawn[0, 1] - drawn[0, 0]).min() > 20


def test_opacity_grows_with_the_map() -> None:
    image = np.stack([np.zeros(50), np.ones(50)])  # the contrast of black and white that is left
    drawn = overlay(image, np.tile(np.linspace(0, 1, 50), (2, 1))).astype(int)
    contrast = (drawn[1] - drawn[0]).mean(axis=1)
    assert np.diff(contrast).max() <= 0.7  # rounding
    assert contrast[-1] < 0.5 * contrast[0]


def test_every_step_of_the_scale_is_seen_on_black_and_grey() -> None:
    for background in (0.0, 0.3):
        lightness = _luminance(overlay(np.full((1, 11), background), np.linspace(0, 1, 11)[None]) / 255.0)[0]
        assert np.diff(lightness)[2:].min() > 2  # brighter and brighter, by more than can just be seen


def test_signed_maps_are_centred_at_zero() -> None:
    image = np.full((1, 3), 0.5)
    low, zero, high = overlay(image, np.array([[-0.5, 0.0, 0.5]]), signed=True, vmax=1.0)[0].astype(int)
    assert np.ptp(zero) == 0
    assert low[2] > low[0]  # blue
    assert high[0] > high[2]  # red
    swapped = overlay(image, np.array([[0.5, 0.0, -0.5]]), signed=True, vmax=1.0)[0]
    assert np.array_equal(swapped[::-1], np.stack([low, zero, high]))
    own = overlay(image, np.array([[-2.0, 0.0, 1.0]]), signed=True)  # scaled by the largest magnitude
    assert np.array_equal(own, overlay(image, np.array([[-2.0, 0.0, 1.0]]), signed=True, vmax=2.0))


@pytest.mark.parametrize(("names", "signed"), [(SEQUENTIAL, False), (DIVERGING, True)])
def test_every_colour_map_is_there(names: tuple[str, ...], signed: bool) -> None:
    pictures = [overlay(np.full((1, 2), 0.5), np.array([[0.2, 1.0]]), colormap=n, signed=signed) for n in names]
    assert len({picture.tobytes() for picture in pictures}) == len(names)


def test_out_of_range_images_are_clipped() -> None:
    zeros = np.zeros((1, 2))
    assert np.array_equal(overlay(np.array([[-1.0, 2.0]]), zeros), overlay(np.array([[0.0, 1.0]]), zeros))


def test_bad_input() -> None:
    image, one = np.full((2, 2), 0.5), np.ones((2, 2))
    with pytest.raises(VaexError, match="1 of 4 values of a map are NaN or infinite"):
        overlay(image, np.array([[0.0, np.nan], [0.0, 0.0]]))
    with pytest.raises(VaexError, match="negative values, down to -3: pass signed=True"):
        overlay(image, -3 * one)
    with pytest.raises(VaexError, match="same size"):
        overlay(np.zeros((3, 2)), one)
    with pytest.raises(VaexError, match="same size"):
        overlay(np.zeros((2, 2, 2)), one)
    with pytest.raises(VaexError, match="vmax=0"):
        overlay(image, one, vmax=0)
    with pytest.raises(VaexError, match="vmax=nan"):
        overlay(image, one, vmax=float("nan"))
    with pytest.raises(VaexError, match=r"opacity .* 1\.5"):
        overlay(image, one, opacity=1.5)
    with pytest.raises(VaexError, match="Unknown sequential colour map 'infeno': did you mean 'inferno'"):
        overlay(image, one, colormap="infeno")
    with pytest.raises(VaexError, match="Unknown diverging colour map 'inferno'"):
        overlay(image, one, colormap="inferno", signed=True)
    with pytest.raises(VaexError, match="got uint8: divide 8-bit images by 255"):
        overlay(np.zeros((2, 2), dtype=np.uint8), one)
    with pytest.raises(VaexError, match="1 of 4 values of an image are NaN"):
        overlay(np.array([[0.0, np.nan], [0.0, 0.0]]), one)
