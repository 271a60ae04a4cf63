"""Integrated loudness in LUFS, gathered block by block (ITU-R BS.1770-5).

Shapes: N samples, C channels, K steps of 100 ms, F frequencies, B blocks of 400 ms.
"""

import numpy as np

STEP_S, STEPS = 0.1, 4  # a block of 400 ms begins every 100 ms
ABSOLUTE_LUFS, RELATIVE_LU = -70.0, -10.0  # gates
OFFSET_LUFS = -0.691
# Both filters of the K weighting at 48 kHz, numerators and denominators, as the recommendation lists them.
FILTER_RATE_HZ = 48_000
SURROUND = 1.41  # what channels behind the listener count; the low-frequency channel counts nothing
CHANNELS = {  # in the order of WAV files; of other numbers of channels all count 1
    4: (1.0, 1.0, SURROUND, SURROUND), 5: (1.0, 1.0, 1.0, SURROUND, SURROUND),
    6: (1.0, 1.0, 1.0, 0.0, SURROUND, SURROUND),
}  # fmt: skip
FILTERS = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


class Loudness:
    """Integrated loudness of a recording whose blocks are added as they come, as they were decoded.

    The weighting is applied to the spectrum of each 100 ms, and the powers of the channels are added up. `lufs` is None
    for less than 400 ms, and for what stays below the gate of -70 LUFS, as silence does.

    >>> loudness = Loudness()
    >>> sine_N = np.sin(2 * np.pi * 997 * np.arange(96_000) / 48_000)
    >>> loudness.add(48_000, np.stack([sine_N, sine_N], axis=1))
    >>> round(loudness.lufs, 1)
    0.0
    """

    def __init__(self) -> None:
        self._format = 0, 0  # rate in Hz and channels of the blocks before
        self._step, self._weights_F = 0, np.zeros(0)
        self._rest_NC = np.zeros((0, 0), np.float32)
        self._powers: list[np.ndarray] = []

    def add(self, rate_hz: int, samples_NC: np.ndarray) -> None:
        """Add the next samples, whose rate and channels may differ from those before."""
        if self._format != (rate_hz, samples_NC.shape[1]):
            self._begin(rate_hz, samples_NC.shape[1])
        samples_NC = np.concatenate([self._rest_NC, samples_NC])
        whole = len(samples_NC) // self._step * self._step
        self._rest_NC = samples_NC[whole:]
        counts_C = CHANNELS.get(samples_NC.shape[1], (1.0,) * samples_NC.shape[1])
        if whole:
            power_K = np.zeros(whole // self._step)
            for counts, samples_N in zip(counts_C, samples_NC[:whole].T, strict=True):
                spectra_KF = np.fft.rfft(samples_N.reshape(-1, self._step))
                power_K += counts * ((spectra_KF.real**2 + spectra_KF.imag**2) @ self._weights_F)
            self._powers.append(power_K)

    def _begin(self, rate_hz: int, channels: int) -> None:
        self._format, self._step = (rate_hz, channels), round(STEP_S * rate_hz)
        weights_F = k_weighting(np.fft.rfftfreq(self._step, 1 / rate_hz))
        weights_F[1 : (self._step + 1) // 2] *= 2  # each stands for a negative frequency, too
        self._weights_F = weights_F / self._step**2
        self._rest_NC = np.zeros((0, channels), np.float32)

    @property
    def lufs(self) -> float | None:
        """The loudness so far."""
        power_K = np.concatenate(self._powers) if self._powers else np.zeros(0)
        if len(power_K) < STEPS:
            return None
        power_B = np.convolve(power_K, np.full(STEPS, 1 / STEPS), "valid")
        power_B = power_B[power_B > from_lufs(ABSOLUTE_LUFS)]
        if not len(power_B):
            return None
        power_B = power_B[power_B > from_lufs(to_lufs(power_B.mean()) + RELATIVE_LU)]
        return to_lufs(power_B.mean())


def k_weighting(hz_F: np.ndarray) -> np.ndarray:
    """Gain of the power at each frequency: a shelf that stands for the head, and a high pass.

    >>> k_weighting(np.array([20.0, 997.0, 8_000.0])).round(2).tolist()
    [0.05, 1.17, 2.53]
    """
    delay_F = np.exp(-2j * np.pi * hz_F / FILTER_RATE_HZ)
    gain_F = np.ones(len(hz_F), complex)
    for numerator, denominator in FILTERS:
        gain_F *= np.polynomial.polynomial.polyval(delay_F, numerator)
        gain_F /= np.polynomial.polynomial.polyval(delay_F, denominator)
    return np.abs(gain_F) ** 2


def to_lufs(power: float) -> float:
    return OFFSET_LUFS + 10 * float(np.log10(power))


def from_lufs(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET_LUFS) / 10))
