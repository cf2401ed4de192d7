"""Devices and precision: how batches are split over devices, and the errors where a device is missing."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import scatter_gather

from agmax.core import devices
from agmax.core.batch import Batch, Outputs
from agmax.core.errors import ResourceError


def test_batches_are_split_and_outputs_gathered_along_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """DataParallel's scatter and gather on the CPU, with a gather that only concatenates."""
    batch = Batch(torch.randn(4, 2, 3, 8, 8), torch.randn(4, 2, 10), torch.ones(4, 2))
    halves = scatter_gather.scatter(batch, [-1, -1])
    assert [type(half) for half in halves] == [Batch, Batch]
    assert torch.equal(halves[1].images, batch.images[2:])

    class Concatenate:
        @staticmethod
        def apply(device: object, dim: int, *parts: Tensor) -> Tensor:
            return torch.cat(parts, dim)

    monkeypatch.setattr(scatter_gather, "Gather", Concatenate)
    outputs = [Outputs(torch.ones(2, 2, 10) * k, torch.ones(2, 10) * k) for k in range(2)]
    gathered = scatter_gather.gather(outputs, "cpu")
    assert isinstance(gathered, Outputs)
    assert gathered.logits.shape == (4, 2, 10)
    assert gathered.joint_logits[:, 0].tolist() == [0, 0, 1, 1]
    assert gathered.features is None


def test_a_missing_gpu_is_an_error_and_an_empty_variable_requests_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert devices.choose_device("auto").type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.choose_device("cpu").type == "cpu"
    with pytest.raises(ResourceError, match="CUDA_VISIBLE_DEVICES=0,1"):
        devices.choose_device("auto")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ResourceError, match="--device cpu"):
        devices.choose_device("cuda")


def test_auto_precision_is_bf16_exactly_where_the_processor_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert devices.autocast_dtype("auto", cpu) == (torch.bfloat16 if has else None)
    assert devices.autocast_dtype("fp32", cpu) is None
    assert devices.autocast_dtype("bf16", cpu) == torch.bfloat16
