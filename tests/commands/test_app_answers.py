"""What the controls of the page of `vaex app` answer where something is stopped, refused or left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import vaex
from vaex.commands.app_answers import Answers
from vaex.commands.app_choices import Choices
from vaex.commands.app_explorer import Explorer
from vaex.commands.app_stopping import StoppedError, Stopping
from vaex.commands.inspection import Inspection
from vaex.data.render import example_sprites
from vaex.scores import score_named

SKIP = "as it was"
CHOSEN = ("conv3", "grad_cam", "mean", 0.75)  # layer, method, target and opacity
SETTINGS = 3 + 1 + 3  # sliders and one more, then the list of latents, of tiles, and the download


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    gr = SimpleNamespace(update=lambda **told: told, skip=lambda: SKIP)
    model = vaex.load("sprites")
    explorer = Explorer(model, {"layer": "conv3"}, Inspection(score_named("kl"), threshold=1.5), (1, 64, 64), most=3)
    choices = Choices({"conv3": "conv3", "none": "nowhere"}, {"grad_cam": "grad_cam"}, {"mean": "mean", "kl": "kl"})
    return Answers(gr, explorer, choices, tmp_path)


@pytest.fixture
def sprite(tmp_path: Path) -> str:
    Image.fromarray((example_sprites(1)[0] * 255).astype(np.uint8)).save(tmp_path / "sprite.png")
    return str(tmp_path / "sprite.png")


def stop(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that is asked be stopped before it is done."""

    @contextmanager
    def allowed(session: str) -> Iterator[None]:
        yield
        raise StoppedError(f"Stopped for {session}.")

    monkeypatch.setattr(answers.stopping, "allowed", allowed)


def test_a_file_that_was_refused_is_seen_by_the_next_choice(answers: Answers, sprite: str) -> None:
    view, words, *rest = answers.on_file(sprite, "me", "none", *CHOSEN[1:])
    assert view is None
    assert "nowhere" in words
    view, words, *rest = answers.on_asked(sprite, view, "me", *CHOSEN)
    assert "sprite.png" in words
    assert [picture.ndim for picture in rest[:2]] == [3, 3]
    assert [slider["value"] for slider in rest[2:5]] == [view.value(latent) for latent in view.shown]
    assert len(rest) == 2 + SETTINGS
    assert answers.on_asked(None, None, "me", *CHOSEN)[0] is None  # neither image nor file


def test_another_choice_leaves_sliders_as_they_are(answers: Answers, sprite: str) -> None:
    view = answers.on_file(sprite, "me", *CHOSEN)[0]
    values = [2.5, *(view.value(latent) for latent in view.shown[1:])]
    other, _, *rest = answers.on_asked(sprite, view, "me", "conv3", "grad_cam", "kl", 0.75, *values, 0.0)
    assert other.asked.target == "kl"
    assert other.moved == ((view.shown[0], 2.5),)
    assert rest[2:] == [SKIP] * SETTINGS


def test_what_is_stopped_on_its_way_back_leaves_the_image(
    answers: Answers, sprite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = answers.on_file(sprite, "me", *CHOSEN)[0]
    moved = answers.explorer.move(view, {view.shown[0]: 2.5})
    stop(answers, monkeypatch)
    kept, words, *rest = answers.on_reset(moved, "me", 0.75)
    assert kept is moved
    assert "Stopped for me." in words
    assert rest[:2] == [SKIP] * 2
    assert rest[2]["value"] == 2.5
    assert rest[2]["visible"]


def test_who_left_waits_for_nothing_also_where_it_begins_only_now() -> None:
    stopping, layer = Stopping(), torch.nn.Identity()
    stopping.leave("me")
    with stopping.allowed("another"):
        layer(torch.zeros(1))
    with pytest.raises(StoppedError), stopping.allowed("me"):
        layer(torch.zeros(1))
    with stopping.allowed("me"):  # a connection that was lost and is there again
        layer(torch.zeros(1))
        stopping.leave("me")
        with pytest.raises(StoppedError):
            layer(torch.zeros(1))
