"""transformers' HubertModel with the weights of a Mert: the oracle of the parity tests, never used at run time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mert.models.mert import Mert
from mert.weights.formats import names, to_huggingface


class Hubert:
    """HubertModel(SDPA) of the same shape and weights; `states` gives all hidden states.

    In float64: in float32 it is itself up to 1.2e-5 off its exact value, on CPUs with AVX2 alone.
    """

    def __init__(self, model: Mert, dtype: torch.dtype = torch.float64) -> None:
        transformers = pytest.importorskip("transformers", reason="the oracle comes with the full environment")
        if transformers.__version__ >= "5":  # there to read exports; tolerances were measured with the torch beside 4
            pytest.skip("the oracle is transformers 4 of the full environment")
        config = transformers.HubertConfig(**to_huggingface(model.config), attn_implementation="sdpa")
        self.model = transformers.HubertModel(config).eval()
        theirs = names(model.config, "huggingface")
        state = {theirs[name]: tensor for name, tensor in model.state_dict().items()}
        self.model.load_state_dict(state, strict=True)
        self.model.to(dtype)

    @torch.inference_mode()
    def states(self, wave_BN: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        output = self.model(wave_BN.to(self.model.dtype), attention_mask=mask, output_hidden_states=True)
        return states_of(output)


def states_of(output: Any) -> tuple[Tensor, ...]:
    """All hidden states of an output of transformers 4 or 5.

    From 5 on, the last of `hidden_states` of a pre-LN model comes before the final norm; `last_hidden_state` does not.
    """
    return (*output.hidden_states[:-1], output.last_hidden_state)


def worst(got: list[Tensor] | tuple[Tensor, ...], wanted: list[Tensor] | tuple[Tensor, ...]) -> float:
    """Largest difference over all states, in units of CONTRIBUTING rule 2: max(1, rms of that layer)."""
    assert len(got) == len(wanted)
    return max(
        float((a.double() - b.double()).abs().max() / b.double().pow(2).mean().sqrt().clamp(min=1))
        for a, b in zip(got, wanted, strict=True)
    )
