"""One sound as numbers: spectrum, envelope, noise, vibrato. Instruments and singers are both patches."""

from dataclasses import dataclass

import numpy as np

N_PARTIALS = 256


@dataclass(frozen=True)
class Patch:
    """Parameters of a sound. `method` is "table" (harmonic), "modal" (struck bars and bells) or "fm".

    A table sound moves from a bright to a dark spectrum: the share of the bright one goes from `bright[0]` to
    `bright[1]` with the time constant `bright[2]` seconds (upwards for brass, downwards for strings that are plucked).
    """

    family: str
    index: int
    method: str = "table"
    tilt_db: float = 9.0  # fall of the partials per octave
    even: float = 1.0  # gain of even partials
    partials: tuple[float, ...] = ()  # gains of the first partials, in place of the tilt
    pluck: float = 0.0  # where a string is plucked: a comb
    formants: tuple[tuple[float, float, float], ...] = ()  # (hz, bandwidth hz, gain)
    cutoff: tuple[float, float] = (9_000.0, 3_000.0)  # of the bright and the dark spectrum, hz
    bright: tuple[float, float, float] = (1.0, 0.2, 0.3)
    attack_s: float = 0.01
    decay_s: float = 1.0
    sustain: float = 0.7
    release_s: float = 0.08
    noise: float = 0.0
    noise_hz: tuple[float, float] = (1_000.0, 6_000.0)
    noise_decay_s: float = 0.0  # 0: as long as the note
    vibrato: tuple[float, float, float] = (0.0, 0.0, 0.2)  # hz, cents, delay s
    tremolo: tuple[float, float] = (0.0, 0.0)  # hz, depth
    detune_cents: float = 0.0  # of a second voice
    scoop_cents: float = 0.0  # how far below a note starts
    modes: tuple[tuple[float, float, float], ...] = ()  # (ratio, gain, decay s)
    fm: tuple[float, float] = (1.0, 2.0)  # modulator ratio, index

    def spectrum(self, f0_hz: float, rate_hz: int) -> np.ndarray:
        """Gains [2, K] of the harmonics, bright and dark; nothing from Nyquist on."""
        k = np.arange(1, N_PARTIALS + 1)
        hz = f0_hz * k
        gain = k ** (-self.tilt_db / 6.0206)
        if self.partials:
            gain = np.zeros(N_PARTIALS)
            gain[: len(self.partials)] = self.partials
        gain = np.where(k % 2 == 0, gain * self.even, gain)
        if self.pluck:
            gain = gain * np.abs(np.sin(np.pi * k * self.pluck))
        if self.formants:
            gain = gain * (0.04 + sum(g / (1 + ((hz - f) / (w / 2)) ** 2) for f, w, g in self.formants))
        # Vibrato, scoops and a second voice reach a little above the nominal pitch.
        gain = np.where(hz < 0.465 * rate_hz, gain, 0.0)
        both = np.stack([gain / (1 + (hz / max(cutoff, 1.5 * f0_hz)) ** 4) for cutoff in self.cutoff])
        power = np.sqrt((both**2).sum(axis=1, keepdims=True) / 2)
        return both / np.maximum(power, 1e-9)
