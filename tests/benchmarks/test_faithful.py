"""Rows, ranks and tables of `vaex bench what=faithfulness`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from vaex.attention import latent_attention
from vaex.benchmarks.faithful import NORMAL, Options, chosen_latents, measure_subject
from vaex.benchmarks.faithful_tables import faithfulness_tables, mean_over_seeds, mean_ranks
from vaex.benchmarks.makers import ERROR, INTENSITY, MEASURED_PEERS, NOISE, RESPONSE, makers_of, makers_of_whole
from vaex.benchmarks.pointing import Findings, Latents, Subject
from vaex.build import build_model
from vaex.data import Sprites
from vaex.errors import VaexError
from vaex.metrics.faithfulness import MEASURES, Settings


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = {"name": "conv", "shape": [1, 32, 32], "latents": 4, "width": 4, "depth": 2, "hidden": 8}
        model: Any = build_model(network).eval()
        with torch.no_grad():
            model.encoder.mean.weight *= torch.tensor([300.0, 0.0, 100.0, 200.0])[:, None]  # one latent is collapsed
        return model


class Photos:
    """Test images without factors, masks on some."""

    def __init__(self, count: int = 6) -> None:
        generator = torch.Generator().manual_seed(2)
        self.images = torch.rand(count, 1, 32, 32, generator=generator)
        self.masks = (torch.rand(count, 1, 32, 32, generator=generator) > 0.8).float()
        self.test_set = [{"image": image, "mask": mask} for image, mask in zip(self.images, self.masks, strict=True)]


def test_rows_are_methods_peers_and_controls(vae: Any) -> None:
    images = Photos().images
    makers = {maker.row: maker for maker in makers_of(vae, images, [("grad_cam", "mean"), ("hires_cam", "kl")], [2, 0])}
    assert list(makers) == [
        *("grad_cam, mean", "hires_cam, kl", "grad_cam, mean, rectified"),
        *MEASURED_PEERS,
        *(NOISE, INTENSITY, RESPONSE),
    ]
    assert [row for row, maker in makers.items() if maker.control] == [NOISE, INTENSITY, RESPONSE]
    signed = latent_attention(vae, images, latents=[2, 0], rectify="none")
    rectified = latent_attention(vae, images, latents=[2, 0])
    torch.testing.assert_close(makers["grad_cam, mean"].maps(vae, images), signed)
    for row in ("grad_cam, mean, rectified", *MEASURED_PEERS):
        assert not makers[row].signed
        if row == MEASURED_PEERS[0]:
            pytest.importorskip("captum")
        torch.testing.assert_close(makers[row].maps(vae, images), rectified, atol=1e-5, rtol=1e-4)
    assert makers["hires_cam, kl"].target == "kl"
    assert torch.equal(makers[INTENSITY].maps(vae, images)[:, 1], images[:, 0])
    noise = makers[NOISE].maps(vae, images)
    assert torch.equal(noise, makers[NOISE].maps(vae, images.flip(2)))
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_the_most_active_latents_are_taken_without_factors(vae: Any) -> None:
    found = chosen_latents(Subject("a", vae, vae, Photos()), Options(latents=2))  # type: ignore[arg-type]
    codes = vae.encode(Photos().images).mean.detach()
    expected = sorted(np.argsort(-codes.var(0).numpy())[:2].tolist())
    assert list(found.numbers) == expected
    assert 1 not in found.numbers
    assert (found.factors, found.collapsed, found.weak) == (("-", "-"), 1, 1)
    still: Any = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 2, "width": 4, "depth": 2, "hidden": 8})
    torch.nn.init.zeros_(still.encoder.mean.weight)
    with pytest.raises(VaexError, match="all latents are collapsed"):
        chosen_latents(Subject("a", still, still, Photos()), Options())  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_is_measured_whatever_its_batches(vae: Any) -> None:
    settings = Settings(steps=3, squares=3, subsets=4, shares=(0.3,), samples=1)
    subject: Any = Subject("a", vae, vae, Photos())  # type: ignore[arg-type]
    seen: list[str] = []
    found = [
        measure_subject(
            subject,
            [("hires_cam", "mean"), ("hires_cam", "normal_difference")],
            Options(images=5, batch=batch, latents=2, settings=settings),
            seen.append,
        )
        for batch in (5, 3)
    ]
    whole, parts = found
    assert whole.images == 5
    assert "calibrat" in whole.skipped["hires_cam, normal_difference"]
    assert list(whole.rows["hires_cam, mean"]["trained"]) == list(MEASURES)
    for row, weights in whole.rows.items():
        for which, measures in weights.items():
            for name, values in measures.items():
                assert values == pytest.approx(parts.rows[row][which][name], abs=1e-3, nan_ok=True), (row, name)
    assert whole.rows[NOISE]["trained"]["randomisation"] == (1.0, 1.0)
    assert whole.rows[RESPONSE]["trained"]["agreement"] == pytest.approx((1.0, 1.0))
    asked = np.linspace(0, len(Photos().images) - 1, 5).round().astype(int)  # spread over the test set
    images, masks = Photos().images[asked], Photos().masks[asked]
    inside = (images * masks).sum((1, 2, 3)) / images.sum((1, 2, 3))
    energy = whole.rows[INTENSITY]["trained"]["energy_inside"]
    assert energy == pytest.approx([float(inside.mean())] * 2, abs=1e-5)
    assert len(seen) == 7 * 2 + 7 * 2 * 2
    assert seen[0].startswith("a: ")
    assert seen[0].endswith(", trained")


def test_mean_ranks() -> None:
    values = {
        "a": {"deletion": 0.1, "insertion": 0.9, "infidelity": 0.5},
        "b": {"deletion": 0.3, "insertion": 0.9, "infidelity": math.nan},
        "c": {"deletion": 0.2, "insertion": 0.1, "infidelity": 0.4},
    }
    # deletion: a c b; insertion: a and b share 1 and 2; infidelity: c a, and b without a number last
    assert mean_ranks(values) == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (3 + 1.5 + 3) / 3, "c": (2 + 3 + 1) / 3})


def _findings(name: str, values: dict[str, tuple[float, ...]]) -> Findings:
    rows: dict[str, Any] = {
        row: {"trained": {"deletion": v}, "untrained": {"deletion": (0.5, 0.5)}} for row, v in values.items()
    }
    return Findings(name, Latents((0, 1), ("-", "-"), (math.nan,) * 2, 3, 4), 8, rows, {"n, t": "Why not."})


def test_tables_put_the_best_first_and_controls_last() -> None:
    runs = [
        _findings("a", {"control: x": (0.0, 0.0), "m, t": (0.4, 0.8), "k, t": (0.2, math.nan)}),
        _findings("b", {"control: x": (0.0, 0.0), "m, t": (0.2, 0.2), "k, t": (0.1, 0.1)}),
    ]
    assert mean_over_seeds(runs, "m, t", "trained", "deletion") == pytest.approx((0.6 + 0.2) / 2)
    assert math.isnan(mean_over_seeds(runs, "m, t", "trained", "insertion"))
    trained, untrained = faithfulness_tables(runs)
    assert [row[0] for row in trained.rows] == ["k, t", "m, t", "control: x"]
    assert [row[1] for row in trained.rows] == ["1.0", "2.0", "-"]
    spread = math.sqrt(((0.6 - 0.4) ** 2 + (0.2 - 0.4) ** 2) / 1)
    assert trained.rows[1][2] == f"0.400 +- {spread:.3f}"
    assert trained.columns == ("map", "mean rank", "deletion v")  # what nobody has been asked is left out
    assert "a: 8 images; the most active latents: z0, z1; left out: 3 collapsed, 4 less active." in trained.notes
    assert trained.notes[-1] == "Left out: n, t. Why not."
    assert untrained.notes == ()
    assert faithfulness_tables([]) == []
    (named, _) = faithfulness_tables(runs, "Faithfulness, whole code")
    assert named.title == "Faithfulness, whole code, trained"


def test_images_without_truth_have_no_number_to_point(vae: Any) -> None:
    data = Photos(2)
    data.test_set = [{"image": image} for image in data.images]
    settings = Settings(steps=1, squares=1, subsets=2, shares=(0.3,), samples=1)
    subject: Any = Subject("a", vae, vae, data)  # type: ignore[arg-type]
    found = measure_subject(subject, [("hires_cam", "mean")], Options(images=2, latents=1, settings=settings))
    (value,) = found.rows["hires_cam, mean"]["trained"]["pointing_game"]
    assert math.isnan(value)
    (deletion,) = found.rows["hires_cam, mean"]["trained"]["deletion"]
    assert math.isfinite(deletion)


def test_maps_of_the_whole_code_have_rows_of_their_own(vae: Any) -> None:
    images = Photos().images
    makers = {maker.row: maker for maker in makers_of_whole([("hires_cam", "sum"), ("gradient", "total_kl")])}
    assert list(makers) == ["hires_cam, sum", "gradient, total_kl", NOISE, INTENSITY, ERROR]
    assert [(maker.target, maker.control) for maker in makers.values()] == [
        *(("sum", False), ("total_kl", False)),
        *[("total_kl", True)] * 3,
    ]
    seen = images.clone().requires_grad_()  # by hand: the gradient of the KL of all latents
    code = vae.encode(seen)
    kl = 0.5 * (code.mean**2 + code.logvar.exp() - 1 - code.logvar).sum()
    (slope,) = torch.autograd.grad(kl, seen)
    torch.testing.assert_close(makers["gradient, total_kl"].maps(vae, images), slope, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        error = (images - vae.decode(vae.encode(images).mean).mean).abs()
    torch.testing.assert_close(makers[ERROR].maps(vae, images), error)


def test_the_whole_code_is_measured_whatever_the_batches(vae: Any) -> None:
    data = Photos()
    for place, item in enumerate(data.test_set):
        item["label"] = torch.tensor(place % 2)
    settings = Settings(steps=4, squares=3, subsets=4, shares=(0.3,), samples=1)
    subject: Any = Subject("a", vae, vae, data)  # type: ignore[arg-type]
    pairs: Any = [("hires_cam", "total_kl"), ("hires_cam", "mahalanobis")]
    whole, parts = (
        measure_subject(subject, pairs, Options(images=6, batch=batch, settings=settings), whole=True)
        for batch in (6, 4)
    )
    assert "calibrat" in whole.skipped["hires_cam, mahalanobis"]
    assert set(whole.rows) == {"hires_cam, total_kl", NOISE, INTENSITY, ERROR}
    for row, weights in whole.rows.items():
        for name, values in weights["trained"].items():
            assert values == pytest.approx(parts.rows[row]["trained"][name], abs=1e-3, nan_ok=True), (row, name)
    energy = (data.images * data.masks).sum((1, 2, 3)) / data.images.sum((1, 2, 3))
    assert whole.rows[INTENSITY]["trained"]["energy_inside"] == pytest.approx([float(energy.mean())], abs=1e-5)

    def kl(seen: torch.Tensor) -> Any:
        code = vae.encode(seen)
        return 0.5 * (code.mean**2 + code.logvar.exp() - 1 - code.logvar).sum(1)

    left: list[tuple[float, float]] = []  # by hand: of the anomalous images alone, in order of their own brightness
    with torch.no_grad():
        for image in data.images[1::2]:
            normal = vae.decode(vae.encode(image[None]).mean).mean[0]
            order, size = image.flatten().argsort(descending=True), image.numel()
            path = []
            for step in range(settings.steps + 1):
                mixed = image.flatten().clone()
                top = order[: round(size * step / settings.steps)]
                mixed[top] = normal.flatten()[top]
                path.append(float(kl(mixed.view_as(image)[None])))
            excess = np.array(path) - path[-1]
            if excess[0] > 0:
                left.append((float(np.trapezoid(excess, dx=1 / settings.steps)), excess[0]))
    assert left
    share = sum(area for area, _ in left) / sum(excess for _, excess in left)  # weighed by the excess
    assert whole.rows[INTENSITY]["trained"][NORMAL] == pytest.approx([share], abs=1e-3)
    tables = faithfulness_tables([whole], "Faithfulness, whole code")
    assert tables[0].columns[-1] == "deletion to normal kl v"
    assert "agreement ^" not in tables[0].columns
    assert tables[0].notes[0] == "a: 6 images; maps of the whole code."


def test_of_drawn_data_the_truth_of_the_whole_code_is_where_any_factor_draws(vae: Any) -> None:
    data = Sprites(grid={"shape": 1, "scale": 1, "orientation": 1, "x": 4, "y": 1}, size=32, val=1, test=2)
    data.setup()
    settings = Settings(steps=1, squares=1, subsets=2, shares=(0.3,), samples=1)
    subject: Any = Subject("a", vae, vae, data)
    found = measure_subject(subject, [("hires_cam", "total_kl")], Options(images=2, settings=settings), whole=True)
    items = data.test_set.__getitems__([0, 1])
    inside = []
    for image, index in zip(items["image"], items["index"].tolist(), strict=True):
        neighbour = index + 1 if index < 3 else index - 1  # one step along x, the one factor that moves
        moved = torch.from_numpy(
            data.grid_set.draw(np.array([neighbour]))[0] != data.grid_set.draw(np.array([index]))[0]
        )
        inside.append(float((image[0] * moved).sum() / image.sum()))
    assert found.rows[INTENSITY]["trained"]["energy_inside"] == pytest.approx([np.mean(inside)], abs=1e-5)
    assert NORMAL not in found.rows[INTENSITY]["trained"]
