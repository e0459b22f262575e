"""The config of a training run: every field, typed and documented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from ...commands.config import Config, Decay, Device, Folder, NonNegative, Precision, Share, at_field, named
from .phases import AnyPhase, FrameChoices, NoisePhase, Phase, require_rising


def _places(value: Any) -> Any:
    """Return keyframes as text: YAML reads a lone 0 as a number, and brackets as a list."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value) if type(value) is int else value


def _at(phases: Sequence[AnyPhase], progress: float) -> AnyPhase | None:
    return next((phase for phase in phases if progress < phase.until), None)


_MOTION = ("motion_places", "motion_attentions")
OWN_FIELDS = {
    "adapter": ("norm", "pos_value", "init", "gate_learning_rate", "position_learning_rate"),
    "animatediff": _MOTION,
    "hotshot": _MOTION,
}
"""Fields that only some kinds of layers have."""
HINTS_ONLY = ("hinted_share", "keyframes")
SHAPES_ONLY = "sdxl"  # as base: SDXL's shapes without weights, for a dry run


class TrainConfig(Config):
    """Settings of `sdxl-anime-video train`."""

    clips: Folder
    """A cache made by `sdxl-anime-video prepare`, or a folder of videos, each with its caption in a .txt or .json file
    of the same name beside it."""
    output: Folder
    """Run folder: for the config, the log, checkpoints and adapter.safetensors."""
    base: str = "toon"
    """`toon`, an SDXL checkpoint file (.safetensors), or a diffusers folder of one."""
    resolution: PositiveInt | None = None
    """Shorter side of the training pictures in pixels; clips are scaled to it. None keeps each clip's own size."""
    dataset: str = ""
    """Name of the clips, recorded in the adapter's metadata."""

    kind: Literal["adapter", "animatediff", "hotshot"] = "adapter"
    """Temporal layers to train: the adapter, or a motion module like AnimateDiff's or like Hotshot-XL's."""
    motion_places: Annotated[list[str], Field(min_length=1)] | None = None
    """Sites of a motion module, direction.block.layer as diffusers counts, such as [down.1.0, up.0.2]. None for every
    site on the way down and up, as in the published motion modules."""
    motion_attentions: Annotated[int, Field(ge=1, le=16)] = 2
    """Temporal attentions in each transformer of a motion module."""
    start: Annotated[Path | None, BeforeValidator(lambda path: named(path, "file"))] = None
    """Adapter or motion module to start from, such as a published one; None starts from a silent one. Set kind,
    max_frames and the other fields of its architecture as in the file."""
    max_frames: Annotated[int, Field(ge=1, le=4096)] = 24
    """Frame positions of the adapter or the motion module."""
    frames: FrameChoices = [8, 12, 16]
    """Frames of a clip in a step; each step takes one of these numbers. Clips shorter than all of them are skipped."""
    random_positions: bool = True
    """Place the frames of a step anywhere within max_frames, so that every position is trained. Motion modules have
    positions that are not trained; the published ones were trained with frames from the first position on."""
    temporal_dropout: Decay = 0.0
    """Probability of each frame to be left out of a step. The others keep their positions; at least two remain."""
    norm: bool = True
    """LayerNorm before the adapter's attention."""
    pos_value: bool = True
    """Learned positions on the values too, so that a frame knows its place in the clip."""
    init: Literal["proj", "gate"] = "proj"
    """Initialisation that silences a new adapter: a zero output projection, or a zero gate (then raise
    gate_learning_rate)."""

    steps: PositiveInt = 10000
    """Optimizer steps."""
    minutes: PositiveFloat | None = None
    """Time limit. The learning rate follows steps or minutes, whichever is further along."""
    clips_per_step: PositiveInt = 2
    """Clips in one forward pass; all share size and number of frames."""
    accumulation: PositiveInt = 1
    """Forward passes of each process for one optimizer step; N processes see N times as many clips."""
    stages: list[Phase] = []
    """Training phases: overrides of clips, resolution, frames, clips_per_step, accumulation or learning_rate, in force
    until the fraction `until` of the run. After the last phase the config's own fields hold; the optimizer goes on."""
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """AdamW; AdamW with 8-bit moments (bitsandbytes, on a GPU); or Muon for the matrices, which needs a third of the
    steps for small and medium adapters."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate; Muon needs three to five times that of AdamW."""
    gate_learning_rate: PositiveFloat | None = None
    """Peak learning rate of the gates; None takes learning_rate."""
    position_learning_rate: PositiveFloat | None = None
    """Peak learning rate of the learned positions; None takes learning_rate."""
    weight_decay: NonNegative = 1e-4
    """Weight decay of matrices; gates, positions, norms and biases have none."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moment."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the learning rate rises; afterwards it falls to zero along a cosine."""
    clip_norm: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the weights, which is saved in their place; 0 for none."""

    min_snr_gamma: PositiveFloat | None = 5.0
    """Min-SNR: a clip's error of x0 is weighted by its SNR, at most by this number. None for no bound."""
    snr_floor: NonNegative = 0.0
    """Least weight of the error of x0; it lifts the high noise levels, where motion is decided. 0 for none."""
    high_noise_bias: NonNegative = 0.0
    """0 draws noise levels evenly; b > 0 draws timesteps with density rising as t^b."""
    pure_noise_share: Share = 0.0
    """Share of clips that are pure noise at the last noise level, as sampling begins. At every other noise level the
    training clip is faintly visible in the input. Layers trained only there read poses from the noise at inference and
    ignore the hints."""
    noise_mode: Literal["shared", "progressive"] = "shared"
    """Kind of correlation between the noise of a clip's frames."""
    noise_correlation: Share = 0.0
    """Correlation of neighbouring frames' noise; 0 for independent noise."""
    noise_probability: Share = 1.0
    """Share of clips with correlated noise; the others have independent noise."""
    noise_curriculum: list[NoisePhase] = []
    """Training phases of the noise: correlation, mode (shared) and probability (1), in force until the fraction `until`
    of the run. Afterwards noise_mode, noise_correlation and noise_probability hold: sample clips with these."""
    caption_dropout: Share = 0.1
    """Share of clips trained without their caption, for classifier-free guidance."""

    controlnet: Annotated[str | None, Field(min_length=1)] = None
    """Frozen ControlNet that steers the keyframes of some batches, so that the frames between learn to follow them: a
    diffusers folder, or `toon`. None for no such batches."""
    hints: Annotated[Path | None, BeforeValidator(named)] = None
    """Folder with a video of hint pictures for each clip, of the same name, size and number of frames."""
    hinted_share: Share = 0.5
    """Share of batches with hints at keyframes; the others have none, as without a ControlNet."""
    keyframes: Annotated[str, BeforeValidator(_places)] = "0,25%,50%,75%,100%"
    """Frames with a hint in half of those batches; the other half has as many or fewer hints at random frames."""

    precision: Precision = "auto"
    """Arithmetic of the forward pass; the trained weights are always fp32. `auto` is bf16 where the device computes in
    it, else fp16 on a GPU and fp32 on a CPU, because most CPUs only imitate bf16, a hundred times slower. In fp16 the
    loss is multiplied by `loss_scale` (in the log), so that small gradients are not lost."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: saves memory, takes about a third more time."""
    device: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    threads: PositiveInt | None = None
    """CPU threads; None leaves the choice to PyTorch."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of all random draws of the run."""

    checkpoint_steps: PositiveInt | None = 1000
    """Steps between two checkpoints."""
    checkpoint_minutes: PositiveFloat | None = 10.0
    """Minutes between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints to keep; older ones are removed."""
    resume: Annotated[str | None, Field(min_length=1)] = None
    """`latest`, or a checkpoint file to go on from. `latest` starts a new run where there is no checkpoint."""
    validation_clips: Annotated[int, Field(ge=0)] = 0
    """Clips held out of training for the validation loss."""
    validation_steps: PositiveInt = 500
    """Steps between two measurements of the validation loss."""
    validation_levels: Annotated[list[Decay], Field(min_length=1)] = [0.3, 0.5, 0.7, 0.8, 0.9, 0.97]
    """Noise levels of the validation loss, as fractions of the training timesteps."""
    sample_steps: PositiveInt | None = None
    """Steps between two renderings of clips, with one more at the end; None renders none."""
    sample_clips: PositiveInt = 2
    """Largest number of held-out clips whose captions are rendered."""
    validation_captions: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Captions to render in place of those of held-out clips."""
    sampler_steps: PositiveInt = 20
    """Sampling steps of a rendered clip."""
    sampler_cfg: NonNegative = 5.0
    """Classifier-free guidance of a rendered clip."""
    tensorboard: bool = True
    """Write the curves as TensorBoard event files too; `tensorboard --logdir RUN_FOLDER` shows them."""
    report_megabytes: NonNegative = 20.0
    """Size of the newest clips that report.html contains; it links to the others."""

    def at(self, progress: float) -> TrainConfig:
        """Return the config with the overrides of the phase at the fraction `progress` (0..1) of the run."""
        phase = _at(self.stages, progress)
        return self.model_copy(update=phase.model_dump(exclude={"until"}, exclude_none=True)) if phase else self

    def noise_at(self, progress: float) -> NoisePhase:
        """Return the noise at the fraction `progress` (0..1) of the run."""
        return _at(self.noise_curriculum, progress) or self.last_noise()

    def last_noise(self) -> NoisePhase:
        """Return the noise at the end of the run, by the config's own fields: clips should be sampled with the same."""
        return NoisePhase(correlation=self.noise_correlation, mode=self.noise_mode, probability=self.noise_probability)

    def describe_noise(self) -> str:
        """Return `trained_noise` of the metadata, such as `shared 0.5 in 70% of clips, else independent`."""
        if not self.noise_correlation or not self.noise_probability:
            return "independent"
        share = "" if self.noise_probability == 1 else f" in {self.noise_probability:.0%} of clips, else independent"
        return f"{self.noise_mode} {self.noise_correlation:g}{share}"

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if max(self.frames) > self.max_frames:
            raise ValueError(f"frames: {max(self.frames)} is more than max_frames {self.max_frames}; raise max_frames")
        if self.min_snr_gamma is not None and self.snr_floor > self.min_snr_gamma:
            raise ValueError(f"snr_floor: {self.snr_floor} is above min_snr_gamma {self.min_snr_gamma}; lower it")
        if self.sample_steps and not self.validation_captions and not self.validation_clips:
            raise ValueError("sample_steps: there is nothing to render; give validation_clips or validation_captions")
        own = OWN_FIELDS[self.kind]
        foreign = dict.fromkeys(name for fields in OWN_FIELDS.values() for name in fields if name not in own)
        if given := self._changed(tuple(foreign)):
            raise ValueError(f"kind: {self.kind} has no {', '.join(given)}; leave that out, or train another kind")
        if self.motion_places and len(set(self.motion_places)) < len(self.motion_places):
            raise ValueError("motion_places: names a place twice; name each once")
        self._consistent_hints()
        require_rising(self.stages, "stages")
        require_rising(self.noise_curriculum, "noise_curriculum")
        for phase in self.stages:
            if max(phase.frames or [0]) > self.max_frames:
                raise ValueError(
                    f"stages: frames {phase.frames} go beyond max_frames {self.max_frames}; raise max_frames"
                )
        return self

    def _changed(self, names: tuple[str, ...]) -> list[str]:
        """Return those of the fields that are not at their defaults."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    def _consistent_hints(self) -> None:
        if (self.controlnet is None) != (self.hints is None):
            raise ValueError("controlnet and hints: one goes with the other; give both, or neither")
        if self.controlnet is None:
            if given := self._changed(HINTS_ONLY):
                raise ValueError(
                    f"{', '.join(given)}: of no use without a ControlNet; give controlnet and hints, or leave that out"
                )
            return
        if self.temporal_dropout or any(phase.clips for phase in self.stages):
            raise ValueError("controlnet: does not go with temporal_dropout, nor with phases of other clips")
        from ...temporal.clip.keyframes import keyframe_rows  # torch takes seconds to load

        lengths = {*self.frames, *(count for phase in self.stages for count in phase.frames or [])}
        if self.validation_clips:  # held-out clips may have any length between
            lengths = set(range(min(lengths), max(lengths) + 1))
        for frames in sorted(lengths):
            with at_field(f"keyframes, in clips of {frames} frames"):
                keyframe_rows(self.keyframes, frames)
