"""The typed config of `render`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from ..commands.config import Config, Device, Precision, Share, at_field

if TYPE_CHECKING:
    from ..temporal.clip.contract import Chain, FrameContract
    from ..temporal.clip.frames import Places

Words = Annotated[str, BeforeValidator(lambda value: "\n".join(value) if isinstance(value, list) else value)]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=8)]


class RenderConfig(Config):
    """Settings of `sdxl-anime-video render`. Defaults are those of the nodes of the same purpose."""

    output: Path
    """The clip, a file that ends in .mp4."""
    overwrite: bool = False
    """Replace the clip if it is there already."""
    checkpoint: str = "toon"
    """`toon`, an SDXL checkpoint file (.safetensors), or a diffusers folder of one."""
    adapter: Path | None = None
    """Temporal adapter or motion module; a motion module also sets the noise levels of its training. None renders every
    frame independently."""
    adapter_strength: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Factor on the output of the adapter or motion module; 0 is the base alone, on a motion module's noise levels."""
    adapter_start_percent: Share = 0.0
    """Share of the noise schedule before which the adapter does nothing."""
    adapter_end_percent: Share = 1.0
    """Share of the noise schedule after which it does nothing."""

    prompt: Words
    """One prompt, or a schedule of lines such as `0: running`, `50%: jumping`. Lines before the first keyframe
    begin every prompt. In JSON also a list of lines."""
    negative: str = ""
    """Negative prompt."""
    interpolation: Literal["hold", "linear", "smooth", "slerp"] = "hold"
    """How prompts blend between two keyframes of the schedule."""
    prompts_by_segment: bool = False
    """Change prompts only where a segment begins."""

    frames: Annotated[int, Field(ge=1, le=4096)] = 16
    """Frames of the clip."""
    width: Side = 768
    """Pixels, a multiple of 8; 128 for toon."""
    height: Side = 768
    """Pixels, a multiple of 8; 128 for toon."""
    fps: PositiveFloat = 12
    """Frames per second."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of the noise, which is drawn as ComfyUI draws it."""
    steps: Annotated[int, Field(ge=1, le=10000)] = 28
    """Steps of BestHQ (DPM++ 2M on Karras noise levels)."""
    cfg: Annotated[float, Field(ge=0, le=100)] = 6.25
    """Scale of classifier-free guidance; 1 is off, and twice as fast."""

    noise_mode: Literal["shared", "additive", "progressive", "freenoise"] = "shared"
    """How frames share their noise."""
    noise_correlation: Share = 0.5
    """Correlation of neighbouring frames' noise; 0 is independent noise."""
    noise_window: Annotated[int, Field(ge=2, le=4096)] = 16
    """freenoise: frames with independent noise, which later frames reuse in another order."""
    noise_overlap: Annotated[int, Field(ge=0, le=4095)] = 4
    """freenoise: frames that neighbouring windows share."""
    smoothing: Share = 0.0
    """Smoothing in BestHQ: before every step, each noisy frame moves this far towards the previous frame."""
    frame_smoothing: Share = 0.0
    """In every step, each frame's denoised prediction moves this far towards that of the previous frame."""
    frame_smoothing_start_percent: Share = 0.0
    """Share of the noise schedule before which frame_smoothing does nothing."""
    frame_smoothing_end_percent: Share = 1.0
    """Share of the noise schedule after which it does nothing."""
    segment_frames: PositiveInt | None = None
    """Frames of a segment. Longer clips are sampled segment by segment; None samples all frames at once."""
    segment_overlap: Annotated[int, Field(ge=0)] = 4
    """Frames at the end of a segment that the next segment knows."""
    segment_carry: Literal["overlap", "last_frame"] = "overlap"
    """overlap: a segment knows the last frames of the previous one; last_frame: all its frames start from the last
    frame with noise added, and segment_overlap is not used."""
    segment_carry_denoise: Annotated[float, Field(gt=0, le=1)] = 0.8
    """last_frame: share of the steps that later segments take; less keeps more of the frame they start from."""
    anchor_strength: Share = 0.0
    """In every step, the denoised prediction of anchored frames moves this far towards the first frame's; 0 is off."""
    anchor_every: Annotated[int, Field(ge=1, le=4096)] = 4
    """Every Nth frame is anchored, unless anchor_positions lists frames."""
    anchor_positions: str = ""
    """Anchored frames by number or percentage, separated by commas, such as `8, 50%, -1`."""
    anchor_band: Literal["low", "all"] = "low"
    """low: only low spatial frequencies move, so that colour and identity hold; all: the whole frame."""
    anchor_start_percent: Share = 0.0
    """Share of the noise schedule before which the anchor does nothing."""
    anchor_end_percent: Share = 1.0
    """Share of the noise schedule after which it does nothing."""

    crf: Annotated[float, Field(ge=0, le=51)] = 16
    """Quality of the mp4: 0 is lossless, 51 the smallest file."""
    save_frames: bool = False
    """Also save the frames as PNG files in a folder beside the clip."""
    precision: Precision = "auto"
    """Precision of the UNet; `auto` is fp16 on a GPU, as in ComfyUI, else fp32. The VAE always has fp32."""
    device: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    threads: PositiveInt | None = None
    """CPU threads; None is PyTorch's default."""

    @model_validator(mode="after")
    def _consistent(self) -> RenderConfig:
        from ..temporal.clip.noise import check_settings
        from ..temporal.hosts.diffusers.text import plain_prompt

        if self.adapter is not None and not self.adapter.exists():
            raise ValueError(f"adapter: {str(self.adapter)!r} is not there; give a temporal adapter or a motion module")
        if self.output.suffix.lower() != ".mp4":
            raise ValueError(f"output: {self.output} does not end in .mp4; a clip is written as mp4")
        if self.segment_frames is not None and self.overlap >= self.segment_frames:
            raise ValueError(
                f"segment_overlap: {self.segment_overlap} is not below segment_frames {self.segment_frames}; lower it"
            )
        for field, wanted in (("prompts_by_segment", True), ("segment_carry", "last_frame")):
            if getattr(self, field) == wanted and self.segment_frames is None:
                raise ValueError(f"{field}: there are no segments; set segment_frames")
        if self.noise_mode == "freenoise":
            check_settings(self.noise_mode, self.noise_correlation, self.noise_window, self.noise_overlap)
        plain_prompt(self.negative, "negative")
        self.schedule()
        with at_field("anchor_positions"):
            self._anchored().rows(self.frames)
        return self

    def contract(self) -> FrameContract:
        """Return what nodes of the same settings record on a MODEL."""
        from ..temporal.clip.contract import FrameContract, NoiseSettings, Pull, Smoothing

        contract = FrameContract(
            NoiseSettings(self.noise_mode, self.noise_correlation, self.noise_window, self.noise_overlap),
            chain=self._chain(),
        )
        if self.frame_smoothing:
            ends = self.frame_smoothing_start_percent, self.frame_smoothing_end_percent
            contract = contract.with_smoothing(Smoothing(self.frame_smoothing, *ends))
        if self.anchor_strength:
            ends = self.anchor_start_percent, self.anchor_end_percent
            contract = contract.with_pull(Pull(self._anchored(), self.anchor_strength, self.anchor_band, *ends))
        return contract

    @property
    def overlap(self) -> int:
        """Frames that a segment knows of the one before."""
        chain = self._chain()
        return chain.known if chain else 0

    def _chain(self) -> Chain | None:
        from ..temporal.clip.contract import Chain

        if self.segment_frames is None:
            return None
        return Chain(self.segment_frames, self.segment_overlap, self.segment_carry, self.segment_carry_denoise)

    def _anchored(self) -> Places:
        from ..temporal.clip.frames import Places, parse_positions

        return Places(self.anchor_every, parse_positions(self.anchor_positions))

    def schedule(self):
        """Return the prompts of the keyframes, and their mix in each frame: see `temporal.clip.prompts`."""
        from ..temporal.clip.prompts import mix_keyframes, parse_schedule
        from ..temporal.hosts.diffusers.text import plain_prompt

        segment = (self.segment_frames or 0) if self.prompts_by_segment else 0
        with at_field("prompt"):
            keyframes = parse_schedule(self.prompt, self.frames)
            mixes = mix_keyframes(keyframes, self.frames, self.interpolation, segment, self.overlap)
        return [plain_prompt(keyframe.prompt, "prompt") for keyframe in keyframes], mixes
