"""Products for training on a CPU: the values and gradients of torch's own, whatever the strides."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from mert.models.cpu import Linear, matmul, onednn

STRIDED = torch.randn(41, 64, generator=torch.Generator().manual_seed(1))[::2, ::2]  # 21 rows of 32 with gaps


def close(got: Tensor | None, wanted: Tensor | None) -> bool:
    assert got is not None and wanted is not None
    return got.shape == wanted.shape and bool((got - wanted).norm() <= 2e-6 * wanted.norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(32,), (7, 32), (3, 5, 32), (0, 32)])
def test_values_and_gradients_are_those_of_torchs_linear(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    fast, plain = Linear(32, 9, bias=bias), torch.nn.Linear(32, 9, bias=bias).double()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(shape, requires_grad=True)
    twin = x.detach().double().requires_grad_()
    y, wanted = fast(x), plain(twin)
    assert y.dtype == torch.float32
    y.sum().backward()  # a gradient of one value, expanded
    wanted.sum().backward()
    assert close(y, wanted) and close(x.grad, twin.grad)
    for name, parameter in fast.named_parameters():
        assert close(parameter.grad, plain.get_parameter(name).grad)


def test_inference_and_lower_precision_are_torchs_own() -> None:
    fast, x = Linear(32, 9), torch.randn(4, 32)
    with torch.no_grad():
        assert torch.equal(fast(x), torch.nn.functional.linear(x, fast.weight, fast.bias))
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(x.requires_grad_())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert fast.weight.grad is not None and x.grad is not None


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    fast, x = Linear(32, 9).requires_grad_(False), torch.randn(4, 32, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None and fast.weight.grad is None
    fast.requires_grad_(True)
    fast(x.detach()).sum().backward()
    assert fast.weight.grad is not None and fast.bias.grad is not None


@pytest.mark.parametrize("a", [STRIDED, STRIDED.T.contiguous().T, STRIDED.contiguous()])
@pytest.mark.parametrize("b", [STRIDED.T, STRIDED.T.contiguous()])
def test_strides_do_not_matter(a: Tensor, b: Tensor) -> None:
    assert close(matmul(a, b), a.double() @ b.double())


def test_rows_with_gaps_are_no_slower() -> None:
    """OneDNN has a slow way, hundreds of times slower, for matrices that are not in one piece."""
    a, b = torch.randn(512, 1000), torch.randn(2000, 512)[::2]
    start = time.process_time()
    a @ b
    middle = time.process_time()
    matmul(a, b)
    assert time.process_time() - middle < 20 * (middle - start) + 0.1


def test_without_onednn_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mert.models.cpu.onednn", lambda: None)
    fast, x = Linear(32, 9), torch.randn(4, 32)
    assert torch.equal(fast(x), torch.nn.functional.linear(x, fast.weight, fast.bias))
    assert torch.equal(matmul(x, x.T), x @ x.T)


def test_this_torch_has_onednn() -> None:
    assert (onednn() is not None) == torch.backends.mkldnn.is_available()
