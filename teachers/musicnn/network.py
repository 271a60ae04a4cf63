"""The network of musicnn (Pons and Serra, arXiv 1909.06654): log-mel patches of 3 s to an embedding and to tags.

Shapes: B patches, T frames, M mel bands (96), C channels, E numbers of the embedding (200), P tags (50).
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS, EMBEDDING, TAGS = 96, 200, 50
EPS = 1e-3  # of all batch norms: TensorFlow's default
TIMBRE = {38: 204, 67: 204}  # bands that a filter sees in 7 frames: filters
RHYTHM = {128: 51, 64: 51, 32: 51}  # frames that a filter sees in one band: filters
MIDDLE, N_MIDDLE = 64, 3
FRONT = sum(TIMBRE.values()) + sum(RHYTHM.values())
NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
LAYER_PARTS = {"weight": "kernel", "bias": "bias"}
COUNT = "num_batches_tracked"  # of torch's norms while they are trained
LAYERS = FRONT + N_MIDDLE * MIDDLE


class Tagger(nn.Module):
    """One tagger: log-mel [B, T, M] -> embedding [B, E], and tags as logits [B, P]; it was trained on T = 187.

    Every convolution is followed by bias, ReLU and batch norm, in this order. The first ones read the normalised
    input, and of each of their channels only the maximum over the bands goes on. All layers, side by side, are pooled
    over time by maximum and mean.

    >>> embedding_BE, logits_BP = Tagger().eval()(torch.zeros(1, 187, 96))
    >>> tuple(embedding_BE.shape), tuple(logits_BP.shape), sum(p.numel() for p in Tagger().parameters())
    ((1, 200), (1, 50), 787159)
    """

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm2d(1, EPS)
        self.timbre = nn.ModuleList(nn.Conv2d(1, n, (7, bands), padding=(3, 0)) for bands, n in TIMBRE.items())
        self.rhythm = nn.ModuleList(nn.Conv2d(1, n, (frames, 1)) for frames, n in RHYTHM.items())
        self.front_norms = nn.ModuleList(nn.BatchNorm1d(n, EPS) for n in (*TIMBRE.values(), *RHYTHM.values()))
        inputs = [FRONT] + [MIDDLE] * (N_MIDDLE - 1)
        self.middle = nn.ModuleList(nn.Conv1d(n, MIDDLE, 7, padding=3) for n in inputs)
        self.middle_norms = nn.ModuleList(nn.BatchNorm1d(MIDDLE, EPS) for _ in inputs)
        self.pool_norm, self.hidden = nn.BatchNorm1d(2 * LAYERS, EPS), nn.Linear(2 * LAYERS, EMBEDDING)
        self.hidden_norm, self.output = nn.BatchNorm1d(EMBEDDING, EPS), nn.Linear(EMBEDDING, TAGS)

    def forward(self, mel_BTM: Tensor) -> tuple[Tensor, Tensor]:
        front_BCT = self.front(mel_BTM)
        all_BCT = torch.cat([front_BCT, *(sum_BCT for _, sum_BCT in self.middle_layers(front_BCT))], 1)
        pooled_BC2 = torch.stack([all_BCT.amax(2), all_BCT.mean(2)], 2)  # flattened channel by channel
        embedding_BE = self.hidden_norm(self.hidden(self.pool_norm(pooled_BC2.flatten(1))).relu())
        return embedding_BE, self.output(embedding_BE)

    def middle_frames(self, mel_BTM: Tensor) -> Tensor:
        """What the middle layers give [B, T, 192], standardised by what their norms measured on the training music."""
        made_BCT = torch.cat([made_BCT for made_BCT, _ in self.middle_layers(self.front(mel_BTM))], 1)
        mean_C, var_C = (
            torch.cat([norm.get_buffer(name) for norm in self.middle_norms]) for name in ("running_mean", "running_var")
        )
        return F.batch_norm(made_BCT, mean_C, var_C, eps=EPS).transpose(1, 2)

    def front(self, mel_BTM: Tensor) -> Tensor:
        """The convolutions of the input, side by side [B, 561, T]."""
        input_B1TM = self.input_norm(mel_BTM[:, None])
        made = []
        for convolution, norm in zip([*self.timbre, *self.rhythm], self.front_norms, strict=True):
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm1d)
            made.append(highest(input_B1TM, convolution, norm))
        return torch.cat(made, 1)

    def middle_layers(self, front_BCT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each middle layer what it gives before its norm, and the sum of it and the middle layers before it."""
        sum_BCT = front_BCT
        for i, (convolution, norm) in enumerate(zip(self.middle, self.middle_norms, strict=True)):
            made_BCT = convolution(sum_BCT).relu()
            sum_BCT = norm(made_BCT) + sum_BCT if i else norm(made_BCT)
            yield made_BCT, sum_BCT


def highest(input_B1TM: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm1d) -> Tensor:
    """The maximum over bands [B, C, T] of norm(relu(convolution)).

    ReLU and norm are monotonic, so they are computed only where the convolution is highest or, if the norm turns its
    channel over, lowest.
    """
    assert convolution.bias is not None
    frames, bands = convolution.kernel_size
    if bands == 1:  # as long as the input: of an even number of frames, TensorFlow sees one more after than before
        input_B1TM = F.pad(input_B1TM, (0, 0, (frames - 1) // 2, frames // 2))
    sign_C1 = torch.where(norm.weight < 0, -1.0, 1.0)[:, None]
    weight = convolution.weight * sign_C1[:, :, None, None]
    made_BCTM = F.conv2d(input_B1TM, weight, padding=convolution.padding)
    return norm((made_BCTM.amax(3) * sign_C1 + convolution.bias[:, None]).relu())


def tagger_of(state: Mapping[str, Tensor]) -> Tagger:
    """A tagger with copies of these weights, ready for use; RuntimeError if they are not all there.

    Copies lie at addresses that suit the processor, wherever the weights were read from, so products round alike. No
    random number is drawn.
    """
    with torch.device("meta"):
        tagger = Tagger()
    counts = {name: torch.tensor(0) for name in tagger.state_dict() if name.endswith(COUNT)}
    tagger.load_state_dict({name: tensor.clone() for name, tensor in state.items()} | counts, assign=True)
    return tagger.eval().requires_grad_(False)


def from_tensorflow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `Tagger` from the authors' checkpoint; KeyError or ValueError if one is missing or misshapen.

    TensorFlow numbers the layers of a kind in the order in which they were made, and leaves out the number 0.
    """
    with torch.device("meta"):
        tagger = Tagger()
    norms = [tagger.input_norm, *tagger.front_norms, *tagger.middle_norms, tagger.pool_norm, tagger.hidden_norm]
    kinds = {
        "conv2d": [*tagger.timbre, *tagger.rhythm, *tagger.middle], "batch_normalization": norms,
        "dense": [tagger.hidden, tagger.output],
    }  # fmt: skip
    scopes = {
        module: f"{kind}_{number}" if number else kind
        for kind, modules in kinds.items()
        for number, module in enumerate(modules)
    }
    state: dict[str, Tensor] = {}
    for name, ours in tagger.state_dict().items():
        layer, _, part = name.rpartition(".")
        if part != COUNT:
            module = tagger.get_submodule(layer)
            names = NORM_PARTS if isinstance(module, nn.modules.batchnorm._BatchNorm) else LAYER_PARTS
            state[name] = torch_layout(tensors[f"{scopes[module]}/{names[part]}"], ours.shape)
    return state


def torch_layout(theirs: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of TensorFlow, whose last axis counts the outputs, in torch's order; ValueError for another shape."""
    ours = theirs.permute({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[theirs.dim()])
    if len(shape) == 3:  # a convolution over time: theirs has the channels as a second axis of the image
        ours = ours.squeeze(1).transpose(1, 2)
    if ours.shape != shape:
        raise ValueError(f"a tensor of {list(theirs.shape)} for {list(shape)}")
    return ours.contiguous()
