"""Pinned frames come out unchanged in every kind of run; the sampler makes the other frames."""

import comfy_extras.nodes_differential_diffusion as differential
import nodes
import pytest
import torch

from clip_sampling import FRAMES, NEGATIVE, POSITIVE, SIZE, adapted, anchored, correlated, empty, given, ksample, model
from sdxl_anime_video.temporal.hosts.comfy.sampling.pinning import clip_mask

SAMPLERS = ["euler", "ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "lcm", "uni_pc", "heun"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pinned_frames_come_out_as_given(sampler):
    plain, pin = model(), given(2)
    result = ksample(anchored(plain, latent=pin, positions="0, -1"), sampler)
    assert torch.equal(result[[0, FRAMES - 1]], pin["samples"])
    # Without temporal attention, pinned frames have no effect on the others.
    vanilla = ksample(plain, sampler)
    assert torch.allclose(result[1:-1], vanilla[1:-1], atol=1e-5 * float(vanilla.std()))


@pytest.mark.parametrize(
    "frames_given, placed, rows, source",
    [
        (1, {"every": 2}, [0], [0]),  # a start image
        (2, {"every": 3}, [0, 3], [0, 1]),
        (3, {"every": 2}, [0, 2, 4], [0, 1, 2]),
        (FRAMES, {"every": 2}, [0, 2, 4], [0, 2, 4]),  # a whole clip: its frames at those places
        (FRAMES, {"positions": "1, 50%"}, [1, 2], [1, 2]),
        (2, {"positions": "-1, 0"}, [4, 0], [0, 1]),
        (FRAMES, {"positions": "4, 3, 2, 1, 0"}, [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]),
    ],
)
def test_which_frames_are_pinned_to_what(frames_given, placed, rows, source):
    plain, pin = model(), given(frames_given)
    result = ksample(anchored(plain, latent=pin, **placed), steps=2)
    assert torch.equal(result[rows], pin["samples"][source])
    others = [f for f in range(FRAMES) if f not in rows]
    assert torch.allclose(result[others], ksample(plain, steps=2)[others], atol=1e-3)


def test_neighbours_attend_to_pinned_frames():
    plain = adapted(model())
    vanilla = ksample(plain)
    results = [ksample(anchored(plain, latent=given(1, seed=seed), positions="1")) for seed in (1, 2)]
    for row in (0, 2, 3, 4):
        # Far above 1e-5: frames that do not attend to the pinned one agree within that (see the other tests here).
        assert (results[0][row] - vanilla[row]).abs().max() > 1e-3 * vanilla.std()
        assert (results[0][row] - results[1][row]).abs().max() > 1e-4 * vanilla.std()


def test_two_nodes_pin_different_frames():
    first, last = given(1, seed=1), given(1, seed=2)
    result = ksample(anchored(anchored(model(), latent=first), latent=last, positions="-1"))
    assert torch.equal(result[[0, -1]], torch.cat([first["samples"], last["samples"]]))


def test_a_mask_of_the_latent_rules_the_other_frames():
    plain, pin, content = model(), given(1), given(FRAMES, seed=3)["samples"]
    mask = torch.ones(FRAMES, SIZE * 8, SIZE * 8)
    mask[2:, :, : SIZE * 4] = 0
    result = ksample(anchored(plain, latent=pin, positions="1"), latent=content, mask=mask)
    vanilla = ksample(plain, latent=content, mask=mask)
    assert torch.equal(result[1], pin["samples"][0])
    others = [0, 2, 3, 4]
    assert torch.allclose(result[others], vanilla[others], atol=1e-5 * float(vanilla.std()))
    assert torch.allclose(result[2:, :, :, : SIZE // 2], content[2:, :, :, : SIZE // 2], atol=1e-4)


def test_one_mask_for_all_frames_is_spread():
    mask = torch.zeros(1, SIZE * 8, SIZE * 8)
    mask[:, : SIZE * 4] = 1
    content = given(FRAMES, seed=3)["samples"]
    pin = given(1)
    result = ksample(anchored(model(), latent=pin, positions="4"), latent=content, mask=mask)
    assert torch.equal(result[4], pin["samples"][0])
    assert torch.allclose(result[:4, :, SIZE // 2 :], content[:4, :, SIZE // 2 :], atol=1e-4)
    assert not torch.allclose(result[:4, :, : SIZE // 2], content[:4, :, : SIZE // 2], atol=1e-1)


def test_masks_are_the_same_before_and_after_core_expands_them():
    given_by_user = torch.rand(3, SIZE * 8, SIZE * 8)
    shape = torch.Size((3, 4, SIZE, SIZE))
    once = clip_mask(given_by_user, shape, torch.device("cpu"))
    assert once.shape == (3, 1, SIZE, SIZE)
    assert torch.equal(clip_mask(once.expand(shape), shape, torch.device("cpu")), once)
    assert torch.equal(clip_mask(once, shape, torch.device("cpu")), once)
    assert (clip_mask(None, shape, torch.device("cpu")) == 1).all()


def test_differential_diffusion_keeps_ruling_its_mask():
    mask = torch.rand(FRAMES, SIZE, SIZE)
    content, pin = given(FRAMES, seed=3)["samples"], given(1)
    softened = differential.DifferentialDiffusion.execute(model()).result[0]
    result = ksample(anchored(softened, latent=pin, positions="1"), latent=content, mask=mask)
    vanilla = ksample(softened, latent=content, mask=mask)
    others = [0, 2, 3, 4]
    assert torch.equal(result[1], pin["samples"][0])
    assert torch.allclose(result[others], vanilla[others], atol=1e-5 * float(vanilla.std()))


def distance(result, pin, row=1):
    return float((result[row] - pin["samples"][0]).abs().mean())


def test_strength_and_range_loosen_the_hold():
    plain, pin = model(), given(1)

    def run(**options):
        return distance(ksample(anchored(plain, latent=pin, positions="1", **options)), pin)

    vanilla = distance(ksample(plain), pin)
    assert run() == 0
    assert 0 < run(strength=0.7) < vanilla
    assert run(end=0.5) > 0
    assert run(start=0.5) == 0


def test_the_second_of_two_stages_shows_pinned_frames_at_its_noise_level():
    seen, pin = [], given(1)

    def look(apply_model, args):
        seen.append((float(args["timestep"][0]), args["input"].std(dim=(1, 2, 3))))
        return apply_model(args["input"], args["timestep"], **args["c"])

    patched = anchored(model(), latent=pin, positions="1")
    patched.set_model_unet_function_wrapper(look)
    sample, rest = nodes.KSamplerAdvanced().sample, (POSITIVE, NEGATIVE)
    half = sample(patched, "enable", 5, 6, 1.0, "euler", "karras", *rest, {"samples": empty()}, 0, 3, "enable")[0]
    seen.clear()
    result = sample(patched, "disable", 5, 6, 1.0, "euler", "karras", *rest, half, 3, 10000, "disable")[0]["samples"]
    assert torch.equal(result[1], pin["samples"][0])
    for sigma, spread in seen:
        expected = (sigma**2 + float(pin["samples"].std() * 0.13025) ** 2) ** 0.5
        assert 0.8 < float(spread[1]) / expected < 1.2


def test_pinning_works_beside_correlated_noise_and_part_denoising():
    plain, pin, content = correlated(model()), given(1), given(FRAMES, seed=3)["samples"]
    result = nodes.KSampler().sample(
        anchored(plain, latent=pin, positions="1"),
        5, 4, 2.0, "dpmpp_sde", "karras", POSITIVE, NEGATIVE, {"samples": content}, 0.5,
    )[0]["samples"]  # fmt: skip
    assert torch.equal(result[1], pin["samples"][0])
    assert torch.equal(content, given(FRAMES, seed=3)["samples"])


@pytest.mark.parametrize(
    "pin, options, message",
    [
        ({"samples": torch.zeros(1, 4, 6, 8)}, {}, r"4 channels of 8x6 \(64x48 px\) but the clip is 4 channels of 4x4"),
        (given(2), {"positions": "0"}, r"1 positions for 2 given latent\(s\)"),
        (given(1), {"positions": "0, 5"}, r"position 5 is outside the clip of 5 frame\(s\)"),
        (given(4), {"every": 2}, r"given latent has 4 frames, but every 2 frames of a clip of 5 there is room for 3"),
        (given(1), {"positions": "-1, 4"}, "positions -1 and 4 are both frame 4"),
    ],
)
def test_pins_that_do_not_fit_the_clip(pin, options, message):
    with pytest.raises(ValueError, match=f"Keyframe Anchor: .*{message}"):
        ksample(anchored(model(), latent=pin, **options))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_hold_no_numbers_are_refused(value):
    pin = {"samples": given(2)["samples"].clone()}
    pin["samples"][1, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"Keyframe Anchor: the given latent holds NaN or infinite values.*--fp32-vae"):
        anchored(model(), latent=pin)


def test_a_latent_without_frames_is_refused():
    with pytest.raises(ValueError, match=r"Keyframe Anchor: the given latent is \[0, 4, 4, 4\]"):
        anchored(model(), latent=given(0))


def test_two_nodes_that_pin_one_frame_are_an_error():
    with pytest.raises(ValueError, match=r"two nodes pin frame\(s\) \[0\]"):
        ksample(anchored(anchored(model(), latent=given(1)), latent=given(2)))


def test_positions_without_a_latent_are_checked_too():
    with pytest.raises(ValueError, match="Keyframe Anchor: position 9 is outside"):
        ksample(anchored(model(), positions="9"))
