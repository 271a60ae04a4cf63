"""From four magnitudes to four signals: a multichannel Wiener filter, refined by expectation maximisation.

After Nugraha, Liutkus and Vincent (2016): the image of source j is a complex Gaussian with covariance v_j(t, f) R_j(f),
power times a spatial matrix, and sources are independent.
Shapes: J sources, C channels, F bins, T frames.
"""

import torch
from torch import Tensor

FLOOR = 1e-10  # of the power of the loudest bin: keeps covariances invertible where channels agree or are silent


def wiener(mixture_CFT: Tensor, magnitudes_JCFT: Tensor, iterations: int) -> Tensor:
    """Sources [J, C, F, T] of a mixture, from magnitudes with the mixture's phase (that is 0 iterations).

    Their sum is the mixture wherever a source has power. Computed in double precision; all frames share the spatial
    matrices.

    >>> mixture = torch.randn(2, 5, 9, dtype=torch.complex128)
    >>> sources = wiener(mixture, torch.rand(4, 2, 5, 9).double(), iterations=1)
    >>> sources.shape, bool((sources.sum(0) - mixture).abs().max() < 1e-6)
    (torch.Size([4, 2, 5, 9]), True)
    """
    scale = torch.maximum(mixture_CFT.abs().max(), magnitudes_JCFT.max()).double().clamp_min(1e-30)
    mixture_CFT = mixture_CFT.to(torch.complex128) / scale
    sources_JCFT = torch.polar(magnitudes_JCFT.double() / scale, mixture_CFT.angle().expand_as(magnitudes_JCFT))
    for _ in range(iterations):
        sources_JCFT = em_step(mixture_CFT, sources_JCFT)
    return (sources_JCFT * scale).to(torch.complex64 if magnitudes_JCFT.dtype == torch.float32 else torch.complex128)


def em_step(mixture_CFT: Tensor, sources_JCFT: Tensor) -> Tensor:
    """Powers and spatial matrices of the sources as they are; then the sources expected with these."""
    power_JFT = sources_JCFT.abs().square().mean(1)
    outer_JFCC = torch.einsum("jcft,jdft->jfcd", sources_JCFT, sources_JCFT.conj())
    spatial_JFCC = outer_JFCC / power_JFT.sum(-1).clamp_min(FLOOR)[..., None, None]
    total_FTCC = torch.einsum("jft,jfcd->ftcd", power_JFT.to(spatial_JFCC.dtype), spatial_JFCC)
    total_FTCC = total_FTCC + FLOOR * torch.eye(len(mixture_CFT), dtype=total_FTCC.dtype, device=total_FTCC.device)
    whitened_FTC = torch.linalg.solve(total_FTCC, mixture_CFT.permute(1, 2, 0))
    filtered_JCFT = torch.einsum("jfcd,ftd->jcft", spatial_JFCC, whitened_FTC)
    return filtered_JCFT * power_JFT[:, None]
