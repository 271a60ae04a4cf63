"""The reference construction of a training step, from public parts and the published recipe's description.

HubertModel of transformers, the CQT of nnAudio, and the noise-contrastive loss as it is usually written: for each
codebook the embedding of the right class and those of all classes are laid side by side for every masked frame, and
compared by cosine. It computes the same loss as `mert.train.objective.Pretrainer`; `training.py` checks that first.
Shapes: B clips, N samples, T frames, S masked frames, D model width, K codebooks, C classes, E class width, F bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nnAudio.features import CQT
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from mert.train.objective import Group, Pretrainer
from mert.train.recipe import Recipe
from mert.weights.formats import names, to_huggingface


class ReferenceStep(nn.Module):
    """Loss of a group of clips and their clean waves, summed over the masked frames; weights are those of `ours`."""

    def __init__(self, recipe: Recipe, ours: Pretrainer, codes: str) -> None:
        super().__init__()
        self.recipe, self.weights, self.teacher = recipe, ours.weights, codes
        config, head = recipe.model, ours.code_heads[codes]
        self.hubert = HubertModel(HubertConfig(**to_huggingface(config) | {"apply_spec_augment": True}))
        theirs = names(config, "huggingface")
        self.hubert.load_state_dict({theirs[name]: tensor for name, tensor in ours.model.state_dict().items()})
        self.sizes = head.sizes
        self.final_proj = nn.Linear(config.dim, recipe.class_width * len(self.sizes))
        self.final_proj.load_state_dict(head.projection.state_dict())
        self.label_embs = nn.Parameter(head.classes.detach().clone())
        self.cqt_proj = nn.Linear(config.dim, 336)
        self.cqt_proj.load_state_dict(ours.frame_heads["cqt"].projection.state_dict())
        self.cqt = CQT(
            sr=config.sample_rate, hop_length=config.stride, fmin=32.7, n_bins=336, bins_per_octave=48, filter_scale=1,
            norm=1, window="hann", center=True, pad_mode="constant", output_format="Magnitude", verbose=False,
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=recipe.lr_at(1), betas=recipe.betas[:2], eps=recipe.eps,  # type: ignore[arg-type]
            weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def step(self, group: Group, clean_BN: Tensor) -> float:
        """One update: zero the gradients, forward, backward, clip, AdamW. Returns the loss a masked frame."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.dtype == "bfloat16"):
            loss = self(group, clean_BN) / group.n_masked
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    def forward(self, group: Group, clean_BN: Tensor) -> Tensor:
        mask_BT = group.mask_BT
        frames_SF = self.cqt_targets(clean_BN)[:, : mask_BT.shape[1]][mask_BT]
        features_BCT = self.hubert.feature_extractor(group.wave_BN)
        features_BCT = scaled_gradient(features_BCT, self.weights.feature_grad)
        penalty = features_BCT.float().square().mean()
        x_BTD = self.hubert.feature_projection(features_BCT.transpose(1, 2))
        x_BTD = self.hubert._mask_hidden_states(x_BTD, mask_time_indices=mask_BT)
        states_SD = self.hubert.encoder(x_BTD).last_hidden_state[mask_BT]
        codes_SK = group.codes[self.teacher][:, :, : mask_BT.shape[1]].transpose(1, 2)[mask_BT]
        cqt_loss = F.mse_loss(self.cqt_proj(states_SD).float(), frames_SF)
        extra = self.weights.penalty * penalty + self.weights.frames * cqt_loss
        return self.contrastive(states_SD, codes_SK) + len(states_SD) * extra

    @torch.no_grad()
    def cqt_targets(self, clean_BN: Tensor) -> Tensor:
        """Magnitudes [B, T, F], in float32."""
        with torch.autocast("cpu", enabled=False):
            return self.cqt(clean_BN).transpose(1, 2)

    def contrastive(self, states_SD: Tensor, codes_SK: Tensor) -> Tensor:
        """Sum over codebooks and frames of the cross entropy of one positive against all classes."""
        projected = self.final_proj(states_SD).chunk(len(self.sizes), dim=1)
        total = states_SD.new_zeros((), dtype=torch.float32)
        for k, classes_CE in enumerate(self.label_embs.split(self.sizes)):
            positive_SE = classes_CE.index_select(0, codes_SK[:, k] + self.recipe.extra_classes)
            negative_CSE = classes_CE.unsqueeze(1).expand(-1, len(states_SD), -1)
            same_CS = (positive_SE == negative_CSE).all(-1)
            targets = torch.cat([positive_SE.unsqueeze(0), negative_CSE])  # [1 + C, S, E]
            logits = F.cosine_similarity(projected[k].float(), targets.float(), dim=-1) / 0.1
            logits[1:][same_CS] = float("-inf")  # the positive is among the classes, too
            first_S = torch.zeros(len(states_SD), dtype=torch.long)
            total = total + F.cross_entropy(logits.transpose(0, 1), first_S, reduction="sum")
        return total


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """The same values; the gradient of only a part of them flows on."""
    return scale * x + (1 - scale) * x.detach()
