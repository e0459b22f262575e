"""Decode and Save Clip in the real ComfyUI: the frames of a plain decode, in flat memory, and nothing half-written."""

import copy
import gc
import json
import tracemalloc
from fractions import Fraction

import comfy.model_management
import comfy.nested_tensor
import comfy.utils
import nodes as core
import numpy as np
import pytest
import torch
from comfy_api.latest import io
from PIL import Image

from node_runs import Interrupted, names, progress, stop, with_hidden
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.media.reader import probe_clip, read_clip
from sdxl_anime_video.nodes.save_clip import DecodeAndSaveClip
from sdxl_anime_video.temporal.hosts.comfy.pictures.decode import FRAMES_AT_ONCE, decode_frames, plan

PROMPT = {"7": {"class_type": "SAV_DecodeAndSaveClip", "inputs": {"tile_size": 0}}}
WORKFLOW = {"nodes": [{"id": 7, "type": "SAV_DecodeAndSaveClip"}], "links": [], "version": 0.4}


@pytest.fixture(scope="module")
def vae():
    return load_toon_comfy()[2]


@pytest.fixture(autouse=True)
def _as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


def latents(frames=3, height=4, width=6, seed=0):
    return torch.randn(frames, 4, height, width, generator=torch.Generator().manual_seed(seed))


def save(samples, *values, **named) -> io.NodeOutput:
    node = with_hidden(DecodeAndSaveClip, prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW})
    return node.execute(samples if isinstance(samples, dict) else {"samples": samples}, *values, **named)


def stills(output):
    """The saved PNGs [F, H, W, 3]."""
    paths = sorted(output.rglob("frame_*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def levels(pictures):
    return np.rint(pictures.float().cpu().numpy().clip(0, 1) * 255).astype(int)


@pytest.mark.parametrize("frames, height, width", [(1, 4, 6), (5, 7, 5), (2 * FRAMES_AT_ONCE + 3, 2, 3)])
def test_frames_are_those_of_a_plain_decode(output, vae, frames, height, width):
    samples = latents(frames, height, width)
    result = save(samples, vae, 0, 8.5, "video/night", 4, True)
    expected = levels(core.VAEDecode().decode(vae, {"samples": samples})[0])
    found = stills(output)
    assert found.shape == expected.shape == (frames, height * 8, width * 8, 3)
    assert np.abs(found - expected).max() <= 1
    path = output / "video" / "night_00001_.mp4"
    assert result.ui.as_dict()["images"] == [{"filename": path.name, "subfolder": "video", "type": "output"}]
    clip, fps = read_clip(path)
    assert clip.shape == expected.shape and fps == Fraction(17, 2)
    assert np.abs(clip.astype(int) - expected).mean() < 12, "4:2:0 costs most where random colours meet"
    assert result.args[0].get_dimensions() == (width * 8, height * 8)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (facts["frames"], facts["width"], facts["height"], facts["fps"]) == (frames, width * 8, height * 8, "17/2")
    assert facts["workflow"] == probe_clip(path).metadata["workflow"] == WORKFLOW


def test_tiles_are_those_of_cores_tiled_decode(output, vae):
    samples = latents(2, 6, 12)
    save(samples, vae, 64, save_frames=True)
    expected = levels(core.VAEDecodeTiled().decode(vae, {"samples": samples}, 64)[0])
    whole = levels(vae.decode(samples))
    assert np.abs(stills(output) - expected).max() <= 1
    assert np.abs(whole - expected).max() > 1, "else this test would not notice a missing tile"


def test_a_tile_as_large_as_the_frame_is_the_frame(output, vae):
    samples = latents(1, 8, 8)
    save(samples, vae, 64, save_frames=True)
    assert np.abs(stills(output) - levels(vae.decode(samples))).max() <= 1


@pytest.mark.parametrize(
    "height, width, tile_size, expected",
    [
        (128, 128, 0, (16, 0)),
        (512, 512, 0, (4, 0)),
        (768, 768, 0, (1, 0)),
        (576, 1024, 0, (1, 0)),
        (776, 768, 0, (1, 512)),
        (1024, 1024, 0, (1, 512)),
        (1024, 1024, 768, (1, 768)),
        (1024, 1024, 1024, (1, 0)),
        (768, 1024, 768, (1, 768)),
        (4096, 4096, 0, (1, 512)),
        (256, 256, 64, (16, 64)),
    ],
)
def test_plan(height, width, tile_size, expected):
    assert plan(height, width, tile_size) == expected


def test_video_latents_are_unrolled(output, vae):
    frames = latents(6)
    save(frames.reshape(2, 3, 4, 4, 6).movedim(1, 2), vae, save_frames=True)  # [B T C h w] -> [B C T h w]
    assert np.abs(stills(output) - levels(vae.decode(frames))).max() <= 1


def test_masks_and_indices_are_ignored_and_the_input_stays(output, vae):
    samples = {"samples": latents(), "batch_index": [7, 3, 5], "noise_mask": torch.zeros(1, 1, 32, 48)}
    before = samples["samples"].clone()
    save(samples, vae, save_frames=True)
    assert list(samples) == ["samples", "batch_index", "noise_mask"] and torch.equal(samples["samples"], before)
    assert np.abs(stills(output) - levels(vae.decode(before))).max() <= 1


def test_sound(output, vae):
    sound = {"waveform": torch.sin(torch.arange(44100) / 10).expand(1, 2, -1), "sample_rate": 44100}
    heard = save(latents(6), vae, fps=12, audio=sound).args[0].get_components().audio
    assert heard["sample_rate"] == 44100 and heard["waveform"].shape[1] == 2
    assert abs(heard["waveform"].shape[2] / 44100 - 0.5) < 0.06


@pytest.mark.parametrize("tile_size", [0, 64])
def test_progress_counts_frames_and_nothing_else(output, vae, tile_size):
    with progress() as seen:
        save(latents(3, 8, 12), vae, tile_size)
    assert seen[0] == (1, 3) and seen[-1] == (3, 3) and seen == sorted(seen)


@pytest.mark.parametrize("tile_size", [0, 64])
def test_interrupt_leaves_nothing(output, vae, tile_size):
    with progress(stop), pytest.raises(Interrupted):
        save(latents(3, 8, 12), vae, tile_size, save_frames=True)
    assert names(output) == []


def test_interrupt_stops_between_tiles(vae):
    """An interrupt takes effect while a frame is being decoded, before it is complete."""
    tiles = []

    def interrupt(module, arguments, result):
        tiles.append(1)
        stop()

    handle = vae.first_stage_model.decoder.register_forward_hook(interrupt)
    try:
        with progress(), pytest.raises(Interrupted):
            next(decode_frames(vae, latents(1, 16, 16), 64))
    finally:
        handle.remove()
    assert len(tiles) == 1


def test_a_failing_frame_late_in_the_clip_leaves_nothing(output, vae):
    samples = latents(FRAMES_AT_ONCE + 3, 2, 2)
    samples[-2] = float("nan")
    with pytest.raises(ValueError, match=f"Decode and Save Clip: frame {FRAMES_AT_ONCE + 1} holds NaN.*fp32-vae"):
        save(samples, vae, save_frames=True)
    assert names(output) == []


def nested():
    return comfy.nested_tensor.NestedTensor([latents(), torch.zeros(1, 8, 16)])


@pytest.mark.parametrize(
    "samples, words",
    [
        (lambda: latents(0), "samples has shape.*at least one frame"),
        (lambda: latents()[0], r"samples has shape \[4, 4, 6\]"),
        (lambda: latents(2, 0, 4), "samples has shape"),
        (lambda: torch.zeros(3, 16, 4, 6), "samples has 16 channels but the VAE decodes 4"),
        (lambda: torch.zeros(1, 16, 3, 4, 6), "samples has 16 channels"),
        (nested, "samples holds several latents"),
    ],
)
def test_refused_latents(output, vae, samples, words):
    with pytest.raises(ValueError, match=f"Decode and Save Clip: {words}"):
        save(samples(), vae)
    assert names(output) == []


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"tile_size": 32}, "tile_size is 32; it must be 64 or more, or 0"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"crf": 60}, "crf must be"),
        ({"filename_prefix": ""}, "filename_prefix ''"),
        ({"audio": {"waveform": torch.zeros(2, 1, 9), "sample_rate": 8000}}, "audio has shape"),
    ],
)
@pytest.mark.parametrize("save_frames", [False, True])
def test_refused_settings(output, vae, settings, words, save_frames):
    with pytest.raises(ValueError, match=f"Decode and Save Clip: {words}"):
        save(latents(), vae, save_frames=save_frames, **settings)
    assert names(output) == []


def test_no_vae(output):
    with pytest.raises(ValueError, match="Decode and Save Clip: vae is empty"):
        save(latents(), None)


def test_a_vae_of_another_kind_is_refused(output, vae):
    video = copy.copy(vae)
    video.latent_dim = 3
    with pytest.raises(ValueError, match=r"Decode and Save Clip: this VAE decodes no single pictures.*Save Clip"):
        save(latents(), video)


def picture_bytes() -> int:
    """Memory of all decoded pictures, which are tensors [..., 3]."""
    storages = (
        thing.untyped_storage()
        for thing in gc.get_objects()
        if type(thing) is torch.Tensor and thing.ndim >= 3 and thing.shape[-1] == 3
    )
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_memory_does_not_grow_with_the_clip(output, vae):
    """Memory in use when the last frame has been saved; benchmarks/decode_memory.py measures the whole process."""
    side = 6
    decoded, python = {}, {}
    before = picture_bytes()
    for frames in (FRAMES_AT_ONCE, 8 * FRAMES_AT_ONCE):

        def at_the_end(value, total, frames=frames):
            if value == total:
                decoded[frames] = picture_bytes() - before

        tracemalloc.start()  # counts numpy's memory, not torch's
        try:
            with progress(at_the_end):
                save(latents(frames, side, side), vae, save_frames=True)
            python[frames] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    short, long = decoded
    picture = (8 * side) ** 2 * 3
    assert FRAMES_AT_ONCE * picture * 4 <= decoded[short] and decoded[long] <= decoded[short]
    assert python[long] - python[short] < 20 * picture
