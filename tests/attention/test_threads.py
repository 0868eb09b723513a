"""Several threads that look at one model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from vaex.attention import latent_attention
from vaex.attention.isolation import alone, undisturbed

X = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def small() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(512, 5)
    )


def test_threads_on_one_model_get_the_maps_of_a_lone_one() -> None:
    model = small().train()
    model[1].eval()
    options: list[dict[str, Any]] = [{}, {"method": "gradient"}, {"target": "sum"}, {"method": "hires_cam"}]

    def look(i: int) -> torch.Tensor:
        return latent_attention(model, X[i % 8 : i % 8 + 1], "0", **options[i % 4])

    expected = [look(i) for i in range(40)]
    flags = [module.training for module in model.modules()]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(look, range(40)))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())


def test_a_look_waits_until_another_thread_has_left_the_model() -> None:
    model = small().train()
    seen: list[bool] = []

    def other() -> None:
        with undisturbed(model, X):
            seen.append(model.training)

    with ThreadPoolExecutor(1) as threads:
        with alone(model):
            waiting = threads.submit(other)
            with undisturbed(model, X):  # the same thread may enter again
                pass
            assert model.training  # and nobody else has switched it
            assert not waiting.done()
        waiting.result()
    assert seen == [False]
    assert model.training


def test_models_do_not_wait_for_each_other_and_are_let_go() -> None:
    import gc
    import weakref

    one, two = small(), small()
    with ThreadPoolExecutor(1) as threads, alone(one):
        threads.submit(latent_attention, two, X, "0").result(timeout=60)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
