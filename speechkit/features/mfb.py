"""MFB: log mel filter-bank energies, by default by Kaldi's definition (`compute-fbank-feats`), batched, differentiable.

Waveform (B, N) in [-1, 1] -> log energies (B, T, num_mels). Frames are taken in blocks that stay in the cache. Where
no gradient flows the blocks write into buffers that are used again, which is several times faster than one pass over
all frames and needs little more memory than its result.

The same numbers come from a strided convolution (`ConvolutionalMFB`, for export) and, to the last bit of a code, in
integers (`IntegerMFB`, for firmware).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from speechkit.features.framing import EDGES, count_frames, frame_samples, window_function, with_edges
from speechkit.features.mel import MEL_SCALES, mel_filters
from speechkit.masking import length_mask, zero_padding

_BLOCK_FRAMES = 512
_DEVICE_BLOCK_FRAMES = 65536
_FILTER_GROUPS = 4
INT16_SCALE = 32768.0  # Kaldi's samples are 16-bit integers; ours lie in [-1, 1]
ENERGY_FLOOR = torch.finfo(torch.float32).eps
LOGS = ("ln", "log10", "db", "none")


class MFB(nn.Module):
    """Log mel filter bank. The defaults are Kaldi's (its `fbank`, without dither); presets are subclasses.

    Args:
        sample_rate_hz: rate of the waveform.
        num_mels: number of mel bins.
        frame_seconds: length of a frame.
        hop_seconds: distance between frames.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last filter; 0 or less counts from the Nyquist frequency.
        preemphasis: coefficient of the first-order high-pass within each frame.
        remove_dc: subtract the mean of each frame.
        dither: standard deviation of Gaussian noise added to each frame, in 16-bit units (Kaldi's `dither`).
        window: "povey", "hanning", "hann" (periodic), "hamming", "blackman", "sine" or "rectangular".
        blackman_coefficient: of the Blackman window.
        round_to_power_of_two: pad frames to the next power of two before the transform.
        edges: "snip", "mirror" (Kaldi without `snip_edges`), "reflect" or "zero"; see `speechkit.features.framing`.
        mel_scale: "htk" or "slaney".
        straight_in: axis on which filters are triangles: "mel" (Kaldi) or "hz" (librosa, torchaudio).
        area_norm: Slaney's normalisation of the filters.
        vtln_warp: vocal tract length warp; 1 for none.
        vtln_low_hz: its lower knee.
        vtln_high_hz: its upper knee; 0 or less counts from the Nyquist frequency.
        sample_scale: factor on the samples: 32768 makes them 16-bit integers.
        use_power: energies are of the power spectrum, else of the magnitudes.
        log: "ln", "log10", "db" (10 log10) or "none".
        floor: least energy before the logarithm.
        dynamic_range: what lies further below the utterance's maximum is lifted, in units of `log`; none for no limit.
        use_energy: a further first column: the frame's log energy.
        raw_energy: that energy is of the frame before pre-emphasis and window.
        energy_floor: least energy of that column; 0 for none.
        htk_compat: that column comes last.

    Raises:
        ValueError: an argument out of its range, or a filter without a bin.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16000,
        num_mels: int = 80,
        frame_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        low_hz: float = 20.0,
        high_hz: float = 0.0,
        preemphasis: float = 0.97,
        remove_dc: bool = True,
        dither: float = 0.0,
        window: str = "povey",
        blackman_coefficient: float = 0.42,
        round_to_power_of_two: bool = True,
        edges: str = "snip",
        mel_scale: str = "htk",
        straight_in: str = "mel",
        area_norm: bool = False,
        vtln_warp: float = 1.0,
        vtln_low_hz: float = 100.0,
        vtln_high_hz: float = -500.0,
        sample_scale: float = INT16_SCALE,
        use_power: bool = True,
        log: str = "ln",
        floor: float = ENERGY_FLOOR,
        dynamic_range: float | None = None,
        use_energy: bool = False,
        raw_energy: bool = True,
        energy_floor: float = 0.0,
        htk_compat: bool = False,
    ) -> None:
        super().__init__()
        if sample_rate_hz <= 0:
            raise ValueError(f"`sample_rate_hz` must be positive, got {sample_rate_hz}.")
        if num_mels <= 0:
            raise ValueError(f"`num_mels` must be positive, got {num_mels}.")
        nyquist_hz = sample_rate_hz / 2
        top_hz = high_hz if high_hz > 0 else nyquist_hz + high_hz
        if not 0 <= low_hz < top_hz <= nyquist_hz:
            raise ValueError(f"`low_hz` must lie below `high_hz` below the Nyquist frequency, got {low_hz}, {high_hz}.")
        if not 0.0 <= preemphasis <= 1.0:
            raise ValueError(f"`preemphasis` must lie in [0, 1], got {preemphasis}.")
        for name, value, known in (
            ("edges", edges, EDGES),
            ("mel_scale", mel_scale, MEL_SCALES),
            ("straight_in", straight_in, ("mel", "hz")),
            ("log", log, LOGS),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
        for name, number in (("floor", floor), ("sample_scale", sample_scale), ("vtln_warp", vtln_warp)):
            if not number > 0:
                raise ValueError(f"`{name}` must be positive, got {number}.")
        if dither < 0:
            raise ValueError(f"`dither` must not be negative, got {dither}.")
        vtln_top_hz = vtln_high_hz if vtln_high_hz > 0 else nyquist_hz + vtln_high_hz
        if vtln_warp != 1.0 and not low_hz < vtln_low_hz < vtln_top_hz < top_hz:
            raise ValueError(
                f"`vtln_low_hz` and `vtln_high_hz` must rise between `low_hz` and `high_hz`, "
                f"got {vtln_low_hz} and {vtln_high_hz}."
            )
        self.sample_rate_hz, self.num_mels = sample_rate_hz, num_mels
        self.frame_seconds, self.hop_seconds = frame_seconds, hop_seconds
        self.low_hz, self.high_hz, self.preemphasis = low_hz, high_hz, preemphasis
        self.remove_dc, self.dither = remove_dc, dither
        self.window, self.blackman_coefficient = window, blackman_coefficient
        self.round_to_power_of_two, self.edges = round_to_power_of_two, edges
        self.mel_scale, self.straight_in, self.area_norm = mel_scale, straight_in, area_norm
        self.vtln_warp, self.vtln_low_hz, self.vtln_high_hz = vtln_warp, vtln_low_hz, vtln_high_hz
        self.sample_scale, self.use_power, self.log, self.floor = sample_scale, use_power, log, floor
        self.dynamic_range = dynamic_range
        self.use_energy, self.raw_energy, self.energy_floor = use_energy, raw_energy, energy_floor
        self.htk_compat = htk_compat
        self.frame_length = frame_samples(frame_seconds, sample_rate_hz)
        self.hop_length = frame_samples(hop_seconds, sample_rate_hz)
        if not self.hop_length >= 1 or self.frame_length < 2:
            raise ValueError(
                f"frames must hold samples, got `frame_seconds` {frame_seconds}, `hop_seconds` {hop_seconds}."
            )
        self.fft_length = 1 << (self.frame_length - 1).bit_length() if round_to_power_of_two else self.frame_length
        filters = mel_filters(
            num_mels,
            self.fft_length,
            sample_rate_hz,
            low_hz,
            top_hz,
            scale=mel_scale,
            straight_in=straight_in,
            area_norm=area_norm,
            vtln_warp=vtln_warp,
            vtln_low_hz=vtln_low_hz,
            vtln_high_hz=vtln_top_hz,
        )
        self._taper: Tensor
        self.filters: Tensor
        taper = sample_scale * window_function(window, self.frame_length, blackman_coefficient)
        self.register_buffer("_taper", taper.float(), persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)
        self._groups = _filter_groups(filters)

    @property
    def num_features(self) -> int:
        return self.num_mels + self.use_energy

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return count_frames(num_samples, self.frame_length, self.hop_length, self.edges)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> log energies (B, T, num_features), frames (B,).

        Frames beyond an utterance's end are zero. Computed in float32 also under autocast.

        Raises:
            ValueError: no utterance is as long as a window, or a sample is NaN or infinite (both on the CPU only:
                looking would make a GPU wait).
        """
        features, frames = self.by_blocks(waveform, lengths)
        return self.limit_range(features, frames), frames

    def by_blocks(
        self, waveform: Tensor, lengths: Tensor, then: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The features some hundred frames at a time, each block handed through `then`, before any `dynamic_range`.

        Args:
            waveform: (B, N) in [-1, 1].
            lengths: (B,) in samples.
            then: features (B, t, F) -> (B, t, F') of any type.

        Returns:
            (B, T, F'), zero beyond each end, and frames (B,).
        """
        frame_counts = self.output_lengths(lengths)
        looks = waveform.device.type == "cpu" and not torch.compiler.is_compiling()
        if looks:
            self._check_lengths(lengths, frame_counts)
        num_frames = int(self.output_lengths(torch.tensor(waveform.shape[1])))
        edged = with_edges(waveform.float(), lengths, self.frame_length, self.hop_length, self.edges)
        features = self.of_edged(edged, num_frames, then)
        if looks:
            if features.is_floating_point():
                check_finite(features, frame_counts)
            else:  # codes hide what is not finite
                check_finite(waveform, lengths)
            if bool((frame_counts == num_frames).all()):
                return features, frame_counts
        return zero_padding(features, frame_counts), frame_counts

    def of_edged(self, waveform: Tensor, num_frames: int, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Features of a waveform whose edges are laid on: frame t is its samples [t hop, t hop + frame_length).

        Args:
            waveform: (B, N), at least one frame long.
            num_frames: T.
            then: as for `by_blocks`.

        Returns:
            (B, T, F').
        """
        looks = waveform.device.type == "cpu" and not torch.compiler.is_compiling()
        with torch.autocast(waveform.device.type, enabled=False):
            if looks and not (torch.is_grad_enabled() and waveform.requires_grad) and not self.dither:
                return self._buffered(waveform, num_frames, then)
            size = max(1, (_BLOCK_FRAMES if looks else _DEVICE_BLOCK_FRAMES) // max(1, waveform.shape[0]))
            frames = waveform.unfold(1, self.frame_length, self.hop_length)[:, : max(num_frames, 1)]
            blocks = [
                self.finish_block(self.log_mel(self.spectral_frames(block)), block)
                for block in frames.split(size, dim=1)
            ]
            return torch.cat([then(block) if then else block for block in blocks], dim=1)[:, :num_frames]

    def spectral_frames(self, frames: Tensor) -> Tensor:
        """Raw frames (B, T, frame_length) -> dithered, DC removed, pre-emphasised, windowed, times `sample_scale`."""
        if self.dither:
            frames = frames + self.dither / INT16_SCALE * torch.randn_like(frames)
        if self.remove_dc:
            frames = frames - frames.mean(dim=-1, keepdim=True)
        if self.preemphasis:
            before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
            frames = torch.add(frames, before, alpha=-self.preemphasis)
        return frames * self._taper

    def log_mel(self, frames: Tensor) -> Tensor:
        """Windowed frames (B, T, frame_length) -> log mel energies (B, T, num_mels)."""
        spectrum = torch.view_as_real(torch.fft.rfft(frames, n=self.fft_length))
        power = spectrum.square().sum(dim=-1)
        if not self.use_power:
            power = (power + torch.finfo(torch.float32).tiny).sqrt()
        return self.logarithm(torch.matmul(power, self.filters))

    def frame_energy(self, frames: Tensor) -> Tensor:
        """Raw frames (B, T, frame_length) -> log energies (B, T, 1), raw or as transformed."""
        if self.raw_energy:
            frames = frames * self.sample_scale
            if self.remove_dc:
                frames = frames - frames.mean(dim=-1, keepdim=True)
        else:
            frames = self.spectral_frames(frames)
        return frames.square().sum(dim=-1, keepdim=True).clamp(min=max(ENERGY_FLOOR, self.energy_floor)).log()

    def limit_range(self, features: Tensor, frame_counts: Tensor) -> Tensor:
        """Lifts what lies more than `dynamic_range` below each utterance's maximum; padding stays zero."""
        if self.dynamic_range is None or features.shape[1] == 0:
            return features
        padding = ~length_mask(frame_counts, features.shape[1])[:, :, None]
        highest = features.masked_fill(padding, -torch.inf).amax(dim=(1, 2), keepdim=True)
        return torch.maximum(features, highest - self.dynamic_range).masked_fill(padding, 0.0)

    def finish_block(self, log_mel: Tensor, frames: Tensor) -> Tensor:
        """Log mel energies (B, t, num_mels), raw frames (B, t, frame_length) -> features (B, t, num_features)."""
        if not self.use_energy:
            return log_mel
        energy = self.frame_energy(frames)
        return torch.cat([log_mel, energy] if self.htk_compat else [energy, log_mel], dim=-1)

    def logarithm(self, energies: Tensor) -> Tensor:
        """Energies of any shape, floored -> their logarithm."""
        if self.log == "none":
            return energies
        floored = energies.clamp(min=self.floor)
        if self.log == "ln":
            return floored.log()
        return floored.log10() if self.log == "log10" else 10.0 * floored.log10()

    def _buffered(self, waveform: Tensor, num_frames: int, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        """What the differentiable path computes, without a graph, in buffers that stay in the cache.

        Pre-emphasis is taken over the waveform instead of over each frame, and the frame's mean m is removed after
        the window w, as m (1 - a) w: the same sums in another order.
        """
        batch, length, hop = waveform.shape[0], self.frame_length, self.hop_length
        size = min(max(1, _BLOCK_FRAMES // max(1, batch)), max(1, num_frames))
        padded = waveform.new_zeros(batch, size, self.fft_length)
        power = waveform.new_empty(batch, size, self.fft_length // 2 + 1)
        taper, filters = self._taper, self.filters
        of_mean = taper * (1.0 - self.preemphasis)
        out: Tensor | None = None
        for start in range(0, max(num_frames, 1), size):
            count = min(size, max(num_frames, 1) - start)
            span = waveform[:, start * hop : (start + count - 1) * hop + length]
            frames = span.unfold(1, length, hop)
            windowed = padded[:, :count, :length]
            if self.preemphasis:
                emphasised = span.clone()
                emphasised[:, 1:].sub_(span[:, :-1], alpha=self.preemphasis)
                torch.mul(emphasised.unfold(1, length, hop), taper, out=windowed)
                torch.mul(frames[..., 0], of_mean[0], out=windowed[..., 0])
            else:
                torch.mul(frames, taper, out=windowed)
            if self.remove_dc:
                windowed.addcmul_(frames.mean(dim=-1, keepdim=True), of_mean, value=-1.0)
            spectrum = torch.fft.rfft(padded[:, :count])
            energy = power[:, :count]
            torch.mul(spectrum.real, spectrum.real, out=energy)
            energy.addcmul_(spectrum.imag, spectrum.imag)
            if not self.use_power:
                energy.sqrt_()
            mel = torch.cat(
                [energy[..., low:high] @ filters[low:high, first:last] for first, last, low, high in self._groups],
                dim=-1,
            )
            block = self.finish_block(self.logarithm(mel), frames)
            block = then(block) if then else block
            if out is None:
                out = block.new_empty(batch, num_frames, block.shape[-1])
            out[:, start : start + count] = block[:, : num_frames - start]
        assert out is not None
        return out

    def _check_lengths(self, lengths: Tensor, frame_counts: Tensor) -> None:
        if bool((lengths > 0).any()) and not bool((frame_counts > 0).any()):  # an empty share of a batch is none
            raise ValueError(
                f"`waveform` must hold a frame (of {self.frame_length} samples at {self.sample_rate_hz} Hz, "
                f"edges {self.edges!r}), got at most {int(lengths.max())} samples."
            )


def check_finite(x: Tensor, lengths: Tensor) -> None:
    """Raises ValueError where samples (B, N), or features (B, T, F), within a length are not finite."""
    if not bool(torch.isfinite(x.detach().sum())):
        for place, (row, count) in enumerate(zip(x, lengths.tolist(), strict=True)):
            if not bool(torch.isfinite(row[:count]).all()):
                raise ValueError(f"`waveform` must be finite, got NaN or infinity in utterance {place} of the batch.")


def _filter_groups(filters: Tensor) -> list[tuple[int, int, int, int]]:
    """Neighbouring filters and the bins they see, (first filter, last, first bin, last): most weights are zero."""
    num_mels = filters.shape[1]
    borders = [num_mels * place // _FILTER_GROUPS for place in range(_FILTER_GROUPS + 1)]
    groups = []
    for first, last in pairwise(borders):
        if first < last:
            seen = torch.nonzero(filters[:, first:last].amax(dim=1)).flatten()
            groups.append((first, last, int(seen[0]), int(seen[-1]) + 1))
    return groups
