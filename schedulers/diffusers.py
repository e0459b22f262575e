"""BestHQ as a diffusers scheduler: a drop-in for any pipeline or loop that runs SDXL.

Samples are variance preserving, as with DDIM and DPMSolverMultistepScheduler: start from plain `randn`, no scaling
of the model's input. So `DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", use_karras_sigmas=True)` gives
the same numbers, and so does ComfyUI's `dpmpp_2m` with `karras`.
"""

import inspect

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from torch import Tensor

from .best_hq import (
    PREDICTION_TYPES,
    dpmpp_2m_step,
    karras_sigmas,
    nearest_timesteps,
    to_denoised,
    training_sigmas,
    vp_scale,
)

NAME = "SDXLAnime_BestHQScheduler"


def _known_fields() -> set[str]:
    """Return the config fields of every discrete-time scheduler that an SDXL checkpoint may ship with."""
    names = [*(scheduler.name for scheduler in KarrasDiffusionSchedulers), "LCMScheduler", "TCDScheduler"]
    classes = [getattr(diffusers, name) for name in names if hasattr(diffusers, name)]
    return set().union(*(inspect.signature(cls.__init__).parameters for cls in classes))


class SDXLAnime_BestHQScheduler(SchedulerMixin, ConfigMixin):
    """DPM-Solver++(2M) on Karras sigmas with hooks around every step.

    Make it with `from_config(pipe.scheduler.config)` or `SDXLAnime_BestHQScheduler(**pipe.scheduler.config)`.
    Fields for the steps of other schedulers (timestep_spacing, algorithm_type, use_karras_sigmas...) change nothing;
    `from_config` keeps them, so that a later switch back finds them.

    beta_*, num_train_timesteps: the noise schedule that the model was trained with; the defaults are SDXL's.
    prediction_type: what the model predicts: epsilon, v_prediction or sample.
    rescale_betas_zero_snr: for models trained with zero terminal SNR.
    sigma_min, sigma_max: ends of the Karras schedule; None takes the first and last training sigma.
    rho: curvature of the Karras schedule.

    Raises TypeError for a field that no scheduler has, ValueError for a value that cannot be honoured.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]
    ignore_for_config = ["kwargs"]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
        **kwargs,
    ):
        unknown = sorted(set(kwargs) - _known_fields())
        if unknown:
            raise TypeError(f"{NAME} got {', '.join(unknown)}, which no diffusers scheduler has; check the spelling")
        if trained_betas is not None:
            raise ValueError(f"{NAME}: trained_betas is not supported; give beta_start, beta_end and beta_schedule")
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"{NAME}: prediction_type {prediction_type!r} is not supported; "
                f"SDXL models predict one of {', '.join(PREDICTION_TYPES)}"
            )
        table = training_sigmas(beta_start, beta_end, beta_schedule, num_train_timesteps, rescale_betas_zero_snr)
        self._training_sigmas = table  # [num_train_timesteps] float64
        self.alphas_cumprod = (1 / (1 + table**2)).float()
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.sigmas = table.flip(0).float()
        self._reset()

    @classmethod
    def from_config(cls, config=None, return_unused_kwargs: bool = False, **kwargs):
        """Build from the config of any SDXL scheduler, as a dict or FrozenDict; `kwargs` override its fields.

        Raises ValueError for a flow matching scheduler's config: that is another family of models.
        """
        fields = config or {}
        if "shift" in fields or fields.get("use_flow_sigmas"):  # "shift" is a field of flow matching schedulers alone
            raise ValueError(
                f"{NAME}: this config is for flow matching models; use one from an SDXL checkpoint "
                "(Euler, DDIM, DPM++, LCM...)"
            )
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._old_denoised: Tensor | None = None

    @property
    def step_index(self) -> int | None:
        """Return the index of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Return the index of the first step if the pipeline has set it (image to image)."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this step instead of finding it from the first timestep."""
        self._begin_index = begin_index

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Plan a run: `timesteps` `[n]` int64 on `device`, `sigmas` `[n + 1]` float32 on the CPU.

        Call it before every run; it clears the state of the run before. Raises ValueError for less than one step.
        """
        if num_inference_steps is None or num_inference_steps < 1:
            raise ValueError(f"{NAME}.set_timesteps needs at least 1 step, got {num_inference_steps}")
        config, table = self.config, self._training_sigmas
        low = config.sigma_min if config.sigma_min is not None else table[0].item()
        high = config.sigma_max if config.sigma_max is not None else table[-1].item()
        sigmas = karras_sigmas(num_inference_steps, low, high, config.rho, torch.float64)
        self.num_inference_steps = num_inference_steps
        self.sigmas = sigmas.float()
        self.timesteps = nearest_timesteps(sigmas[:-1], table).to(device)
        self._reset()

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Return the sample itself: variance preserving samples need no scaling."""
        return sample

    def hook_before_step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Override, or assign a function `(model_output, timestep, sample) -> (model_output, sample)`.

        Runs before the step, which uses both results. Shapes must stay. An example is smoothing over frames:

            def smooth(model_output, timestep, sample):  # [B, F, C, H, W]
                sample = sample.clone()
                sample[:, 1:] = 0.9 * sample[:, 1:] + 0.1 * sample[:, :-1]
                return model_output, sample

            scheduler.hook_before_step = smooth
        """
        return model_output, sample

    def hook_after_step(self, denoised: Tensor, timestep: int | Tensor, prev_sample: Tensor) -> tuple[Tensor, Tensor]:
        """Override, or assign a function `(denoised, timestep, prev_sample) -> (denoised, prev_sample)`.

        Runs after the step. `denoised` is this step's clean prediction, from which the next step extrapolates;
        `prev_sample` is the sample that `step` returns.
        """
        return denoised, prev_sample

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """Return the sample at the next lower noise level, one step from the `sample` at `timestep`.

        model_output, sample: `[B, C, H, W]` or `[B, F, C, H, W]`. Half precision is computed in float32; the
        result has the dtype of `model_output`.

        Raises RuntimeError before `set_timesteps` or after the last step, ValueError for shapes that differ or a
        first timestep outside the schedule, TypeError for a hook that does not return a pair.
        """
        index = self._next_index(timestep)
        model_output, sample = _pair("hook_before_step", self.hook_before_step(model_output, timestep, sample))
        if model_output.shape != sample.shape:
            raise ValueError(
                f"{NAME}.step: model_output {tuple(model_output.shape)} and sample {tuple(sample.shape)} differ in "
                "shape; give the prediction alone, without guidance halves or variance channels"
            )
        dtype = torch.promote_types(sample.dtype, torch.float32)
        sigma, sigma_next = self.sigmas[index].to(dtype), self.sigmas[index + 1].to(dtype)
        sigma_prev = self.sigmas[index - 1].to(dtype) if index > 0 else None
        exploding = sample.to(dtype) / vp_scale(sigma)
        denoised = to_denoised(model_output.to(dtype), exploding, sigma, self.config.prediction_type)
        exploding = dpmpp_2m_step(denoised, self._old_denoised, exploding, sigma, sigma_next, sigma_prev)
        prev_sample = (exploding * vp_scale(sigma_next)).to(model_output.dtype)
        self._old_denoised, prev_sample = _pair(
            "hook_after_step", self.hook_after_step(denoised, timestep, prev_sample)
        )
        self._step_index = index + 1
        return SchedulerOutput(prev_sample=prev_sample) if return_dict else (prev_sample,)

    def _next_index(self, timestep: int | Tensor) -> int:
        if self.num_inference_steps is None:
            raise RuntimeError(f"{NAME}.step was called before set_timesteps; call set_timesteps(steps) first")
        index = self._step_index
        if index is None:
            index = self._begin_index if self._begin_index is not None else self._index_of(float(timestep))
        if index is None:
            raise ValueError(
                f"{NAME}.step: timestep {float(timestep):g} is not in the schedule of {self.num_inference_steps} "
                "steps; iterate over scheduler.timesteps"
            )
        if not 0 <= index < self.num_inference_steps:
            raise RuntimeError(
                f"{NAME}.step: step {index + 1} of a run of {self.num_inference_steps}; call set_timesteps before "
                "a new run"
            )
        return index

    def _index_of(self, timestep: float) -> int | None:
        """Return the index of `timestep` in the schedule; the first one if rounding has doubled it."""
        found = (self.timesteps == timestep).nonzero()
        return int(found[0]) if len(found) else None

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy sample alpha x0 + alpha sigma noise of every clip in the batch.

        timesteps: `[B]` (or 0-d, for all). One in the planned schedule, or any after `set_begin_index`, stands for
        that step's sigma, so that `step` can continue there; any other is a training timestep.
        Raises ValueError for a timestep outside the training range.
        """
        sigmas = [self._sigma_of(float(timestep)) for timestep in timesteps.reshape(-1)]
        shape = [-1] + [1] * (original_samples.ndim - 1)
        sigma = torch.tensor(sigmas, dtype=torch.float64, device="cpu").view(shape)
        alpha = vp_scale(sigma)
        signal_rate, noise_rate = (rate.to(original_samples) for rate in (alpha, alpha * sigma))
        return signal_rate * original_samples + noise_rate * noise

    def _sigma_of(self, timestep: float) -> float:
        index = None
        if self.num_inference_steps is not None:
            index = self._step_index if self._begin_index is not None else None
            index = index if index is not None else self._begin_index
            index = index if index is not None else self._index_of(timestep)
        if index is not None:
            return float(self.sigmas[index])
        if not 0 <= timestep <= len(self._training_sigmas) - 1:
            raise ValueError(
                f"{NAME}.add_noise: timestep {timestep:g} is outside 0..{len(self._training_sigmas) - 1}, "
                "the timesteps of training"
            )
        return float(self._training_sigmas[round(timestep)])

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _pair(hook: str, result) -> tuple[Tensor, Tensor]:
    """Return a hook's pair of tensors. Raises TypeError for one tensor: the change of the other would be lost."""
    if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(item, Tensor) for item in result)):
        raise TypeError(f"{NAME}.{hook} must return a pair of tensors (see its docstring), got {type(result).__name__}")
    return result
