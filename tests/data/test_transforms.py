"""Augmentation: every transform on offer works on colour and grey, moves the mask with the image, by its seed alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf

from vaex.config import conf_dir, register_resolvers
from vaex.data.transforms import TRANSFORMS, Augmentation
from vaex.errors import VaexError

Pixels = NDArray[np.uint8]

COLOUR = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
EMPTY = np.zeros((32, 32), dtype=np.uint8)

NEEDED: dict[str, dict[str, Any]] = {"RandomResizedCrop": {"size": [32, 32]}, "Affine": {"rotate": [-20, 20]}}
GREY_TOO = ("Affine", "GaussNoise", "GaussianBlur", "HorizontalFlip", "ImageCompression", "RandomBrightnessContrast")


def configured(name: str) -> Augmentation:
    return Augmentation(**yaml.safe_load((conf_dir() / "augmentation" / f"{name}.yaml").read_text()))


def flips(seed: int, *names: str) -> tuple[Pixels, Pixels]:
    return Augmentation(transforms=[{"name": name, "p": 0.5} for name in names])(COLOUR, EMPTY, (seed,))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_on_offer_works(name: str) -> None:
    augment = Augmentation(transforms=[{"name": name, "p": 1.0, **NEEDED.get(name, {})}])
    for channels in (3, 1):
        try:
            augment.check_channels(channels)
        except VaexError:
            assert channels == 1
            assert name not in GREY_TOO
            continue
        results = [augment(COLOUR[:channels], EMPTY, (0, turn)) for turn in range(6)]
        assert all(image.shape == (channels, 32, 32) and image.dtype == np.uint8 for image, _ in results)
        assert all(mask.shape == (32, 32) and mask.dtype == np.uint8 for _, mask in results)
        assert any(not np.array_equal(image, COLOUR[:channels]) for image, _ in results)


@pytest.mark.parametrize("name", ["paper", "strong", "corrupt"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_seed_alone_decides(name: str, channels: int) -> None:
    image, augment = COLOUR[:channels], configured(name)
    first = [augment(image, EMPTY, (1, epoch, 5))[0] for epoch in range(4)]
    for other in (augment, configured(name), pickle.loads(pickle.dumps(augment))):
        np.random.seed(3)  # noqa: NPY002 - the global generator must not matter
        again = [other(image, EMPTY, (1, epoch, 5))[0] for epoch in (3, 1, 2, 0)]
        np.testing.assert_array_equal(np.stack(again), np.stack([first[i] for i in (3, 1, 2, 0)]))
    assert len({pictured.tobytes() for pictured in first}) == 4
    assert not np.array_equal(augment(image, EMPTY, (2, 0, 5))[0], first[0])
    assert not np.array_equal(augment(image, EMPTY, (1, 0, 6))[0], first[0])


@pytest.mark.parametrize("name", ["paper", "strong"])
def test_a_mask_moves_with_its_image(name: str) -> None:
    """The image shows the mask: after the change it still does, but for a rim that interpolation blurs."""
    mask = EMPTY.copy()
    mask[4:14, 6:22] = 1
    image = np.repeat(mask[None] * 255, 3, axis=0)
    moved = 0
    for turn in range(10):
        changed, marked = configured(name)(image, mask, (0, turn))
        assert set(np.unique(marked)) <= {0, 1}
        bright = changed.mean(axis=0) > changed.mean(axis=0).max() / 2
        assert (bright == marked.astype(bool)).mean() > 0.93
        moved += not np.array_equal(marked, mask)
    assert moved >= 8


def test_corruption_leaves_the_mask_alone() -> None:
    mask = (np.random.default_rng(1).random((32, 32)) < 0.5).astype(np.uint8)
    for turn in range(5):
        changed, marked = configured("corrupt")(COLOUR, mask, (0, turn))
        np.testing.assert_array_equal(marked, mask)
        assert not np.array_equal(changed, COLOUR)


def test_transforms_draw_independently() -> None:
    """Seeded one by one, albumentations' transforms would draw the same numbers: both flips or none."""
    outcomes = {
        "none": COLOUR,
        "left": COLOUR[:, :, ::-1],
        "up": COLOUR[:, ::-1],
        "both": COLOUR[:, ::-1, ::-1],
    }
    seen = set()
    for seed in range(40):
        image, _ = flips(seed, "HorizontalFlip", "VerticalFlip")
        seen |= {name for name, expected in outcomes.items() if np.array_equal(image, expected)}
    assert seen == set(outcomes)


def test_mirroring_is_as_frequent_as_its_probability() -> None:
    mirrored = sum(not np.array_equal(flips(seed, "HorizontalFlip")[0], COLOUR) for seed in range(200))
    assert 70 <= mirrored <= 130  # 100 expected, standard deviation 7


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "HorizontalFlop"}, "Unknown transform .* 'HorizontalFlop': did you mean 'HorizontalFlip'"),
        ({"name": "TemplateTransform", "templates": "/etc/passwd"}, "Unknown transform"),
        ({"p": 1.0}, "Unknown transform"),
        ({"name": "Rotate", "limits": [0, 1]}, "Rotate does not take .*limits"),
        ({"name": "GaussNoise", "std_range": [2, 3]}, "GaussNoise does not take"),
        ({"name": "Rotate", "border_mode": "mirror"}, "Unknown border_mode of Rotate 'mirror'"),
    ],
)
def test_what_a_transform_does_not_take_is_told_at_once(item: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Augmentation(transforms=[item])


def test_a_change_of_size_is_refused() -> None:
    with pytest.raises(VaexError, match="augmentation=own changes the size of images"):
        Augmentation(transforms=[{"name": "RandomResizedCrop", "size": [8, 8], "p": 1.0}])(COLOUR, EMPTY, (0,))


def test_colour_transforms_refuse_grey_images() -> None:
    with pytest.raises(VaexError, match=r"HueSaturationValue needs colour images.*data\.channels=3"):
        Augmentation(transforms=[{"name": "HueSaturationValue"}]).check_channels(1)


@pytest.mark.slow
def test_albumentations_is_imported_late_and_asks_no_network() -> None:
    program = """
import os, socket, sys
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
def refuse(*arguments, **options):
    print("asked the network", flush=True)
    raise OSError
socket.socket.connect = socket.getaddrinfo = refuse
from vaex.data.transforms import Augmentation
Augmentation()
print("albumentations" in sys.modules)
Augmentation(transforms=[{"name": "HorizontalFlip"}])
print("albumentations" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["False", "True", ""]


@pytest.mark.parametrize("data", ["mvtec", "folder", "visa", "ped1"])
@pytest.mark.parametrize("name", ["none", "paper", "strong", "corrupt"])
def test_the_choice_reaches_the_data(data: str, name: str) -> None:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [f"data={data}", f"augmentation={name}", "network=resnet18"])
    found = OmegaConf.to_container(config.data.augmentation, resolve=True)
    assert found == yaml.safe_load((conf_dir() / "augmentation" / f"{name}.yaml").read_text())
