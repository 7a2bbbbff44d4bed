"""Devices have names, and a name that means nothing here says what does."""

import pytest
import torch

from tsfm_pipeline.forecaster.devices import device_named


def test_without_a_gpu_only_the_processor_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "gpu", "cpu:1"):
        with pytest.raises(ValueError, match=f"is '{name}', which .* allowed here: auto, cpu$"):
            device_named(name)


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("auto") == device_named("cuda") == torch.device("cuda")
    assert device_named("cuda:1").index == 1
    with pytest.raises(ValueError, match=r"allowed here: auto, cpu, cuda, cuda:0, cuda:1$"):
        device_named("cuda:2")
