"""Our graphs on a real server: registration, the demo's clip, caching, neutral settings, bad files, interrupts; the
SDXL graphs as a whole, with the toon world's files."""

import copy
import io
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import toon_companions
from sdxl_anime_video.demo.painter import paint_clip
from sdxl_anime_video.headless.client import ComfyClient, PromptError, PromptInterrupted
from sdxl_anime_video.headless.graph import only, saved_clip, with_files
from sdxl_anime_video.headless.server import log_faults

OF_12_FPS = {"temporal_adapter": 5, "long_clip": 12, "start_image": 5, "second_pass": 9}
WITH_COMPANIONS = {"motion_module": 10, "guided_clip": 10}  # at 8 frames a second
FRAMES = {**OF_12_FPS, **WITH_COMPANIONS}


def node_id(prompt, class_type):
    """Number of the one node of a class."""
    (found,) = (number for number, node in prompt.items() if node["class_type"] == class_type)
    return found


def latents_of(running, prompt, name):
    """Runs a prompt, less its decoding, with SaveLatent at the end, and returns the latents [F, 4, h, w]."""
    prompt = copy.deepcopy(prompt)
    for last in ("VAEDecode", "SAV_SaveClip"):
        del prompt[node_id(prompt, last)]
    (sampler,) = (number for number, node in prompt.items() if node["class_type"] in ("SamplerCustom", "KSampler"))
    prompt["save"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": name}}
    with ComfyClient(running.url) as client:
        (record,) = client.run(prompt)["save"]["latents"]
    return load_file(running.output / record["subfolder"] / record["filename"])["latent_tensor"]


def files_of(running):
    """Everything in the output folder."""
    return sorted(path for path in running.output.rglob("*") if path.is_file())


def test_the_server_starts_without_a_complaint(server):
    assert log_faults(server.log()) == []


def test_our_nodes_are_registered(client, repository):
    pages = {page.stem for page in (repository / "web" / "docs").glob("*.md")}  # one for each node
    assert {name for name in client.object_info() if name.startswith("SAV_")} == pages


@pytest.mark.usefixtures("quiet_log")
def test_demo_yields_a_clip_that_carries_its_graph(server, client, demo_prompt, demo_workflow):
    record = saved_clip(client.run(demo_prompt, demo_workflow))
    with av.open(io.BytesIO(client.view(record))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.average_rate, stream.width, stream.height) == (12, 64, 64)
        assert len(list(container.decode(stream))) == 4
        metadata = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(metadata["workflow"]) == demo_workflow
    prompt = json.loads(metadata["prompt"])
    for node in prompt.values():
        node.pop("is_changed", None)  # ComfyUI's own record of a file's state
    assert prompt == demo_prompt
    assert str(server.base) not in metadata["prompt"]


@pytest.mark.usefixtures("quiet_log")
def test_cached_requeued_and_uncached_runs_give_the_same_latents(server, server_without_cache, demo_prompt):
    first = latents_of(server, demo_prompt, "first")
    assert torch.isfinite(first).all()
    assert first.std() > 0.1
    assert torch.equal(latents_of(server, demo_prompt, "from_cache"), first)

    only(demo_prompt, "SamplerCustom")["noise_seed"] += 1
    other = latents_of(server, demo_prompt, "other_seed")
    assert not torch.equal(other, first)

    only(demo_prompt, "SamplerCustom")["noise_seed"] -= 1
    assert torch.equal(latents_of(server, demo_prompt, "again"), first)
    assert torch.equal(latents_of(server_without_cache, demo_prompt, "uncached"), first)
    assert torch.equal(latents_of(server_without_cache, demo_prompt, "uncached_again"), first)


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("sampler_name", ["dpmpp_2m", "euler_ancestral"])
def test_neutral_settings_equal_vanilla(server, demo_prompt, sampler_name):
    sampling = only(demo_prompt, "SamplerCustom")
    loader, adapted = node_id(demo_prompt, "SAV_DemoModel"), node_id(demo_prompt, "SAV_ApplyTemporalAdapter")
    noise = node_id(demo_prompt, "SAV_CorrelatedNoise")
    demo_prompt[adapted]["inputs"]["strength"] = 0.0
    demo_prompt[noise]["inputs"]["correlation"] = 0.0
    plain = {
        "model": [loader, 0],
        "seed": 11,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": sampler_name,
        "scheduler": "karras",
        "denoise": 1.0,
        **{name: sampling[name] for name in ("positive", "negative", "latent_image")},
    }
    for name in ("SamplerCustom", "SAV_BestHQSigmas", "SAV_BestHQSampler"):
        del demo_prompt[node_id(demo_prompt, name)]
    demo_prompt["k"] = {"class_type": "KSampler", "inputs": plain}
    vanilla = latents_of(server, demo_prompt, "vanilla")

    demo_prompt["k"]["inputs"]["model"] = [noise, 0]
    assert torch.equal(latents_of(server, demo_prompt, "neutral"), vanilla)

    demo_prompt[noise]["inputs"]["correlation"] = 0.9
    assert not torch.equal(latents_of(server, demo_prompt, "correlated"), vanilla)


def in_small(prompt, frames, image, upscale_model, companions):
    """An SDXL graph with the toon world's files, a sixth of its size, segments of 6 frames, and 2 steps."""
    prompt = copy.deepcopy(prompt)
    small = {
        "SAV_LoadTemporalAdapter": {"adapter_name": "toon/toon_adapter.safetensors"},
        "SAV_EmptyVideoLatent": {"frames": frames},
        "SAV_SegmentChain": {"segment_frames": 6, "overlap": 2},
        "SAV_ContextWindows": {"length": 6, "overlap": 2},
        "SAV_BestHQSigmas": {"steps": 2},
        "SAV_SamplingPreset": {"steps": 2},
        "SAV_ControlHints": {"kind": "canny", "resolution": 128},
        "KSampler": {"steps": 2},
        "LoadImage": {"image": image},
        "UpscaleModelLoader": {"model_name": upscale_model},
        **companions,
    }
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="SAV_DemoModel", inputs={})
        node["inputs"].update(small.get(node["class_type"], {}))
        sizes = {key: node["inputs"].get(key) for key in ("width", "height")}
        node["inputs"].update({key: size // 6 for key, size in sizes.items() if isinstance(size, int)})
    return prompt


@pytest.fixture
def start_image(client, tmp_path):
    """A painted picture, larger than the clip and wider: its name in the input folder, and its middle as 128x128."""
    picture = Image.fromarray(paint_clip("girl, blue hair, white dress, sunset, run", 1, (192, 256)).frames[0])
    path = tmp_path / "start.png"
    picture.save(path)
    return client.upload(path), np.asarray(picture.crop((32, 0, 224, 192)).resize((128, 128), Image.Resampling.LANCZOS))


@pytest.fixture
def upscale_model(server):
    """Name of a 2x Real-ESRGAN Compact model with 4 features: the pictures in twice the size, plus a little noise."""
    layers = {"0": (4, 3), "2": (4, 4), "4": (3 * 2 * 2, 4)}
    weights = {f"body.{i}.weight": 0.01 * torch.randn(*shape, 3, 3) for i, shape in layers.items()}
    weights |= {f"body.{i}.bias": torch.zeros(shape[0]) for i, shape in layers.items()}
    weights |= {f"body.{i}.weight": torch.full((4,), 0.2) for i in ("1", "3")}  # PReLU
    folder = server.base / "models" / "upscale_models"
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "tiny.safetensors")
    return "tiny.safetensors"


@pytest.fixture
def companions(server):
    """The toon world's files, and random LoRAs for the rest: input values by the class of the node."""
    toon_companions.main(server.base)
    return {
        "SAV_LoraStack": {"speed_lora": "toon/toon_lcm.safetensors"},
        "SAV_LoadMotionModule": {"motion_module_name": "toon/toon_motion.safetensors"},
        "ControlNetLoader": {"control_net_name": "toon/toon_pose.safetensors"},
    }


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("name", FRAMES)
def test_a_whole_sdxl_graph_runs_on_the_toon_model(
    server, client, repository, name, start_image, upscale_model, request
):
    image, picture = start_image
    folder = repository / "workflows"
    graph = json.loads((folder / f"{name}.json").read_text("utf-8"))
    prompt = json.loads((folder / "api" / f"{name}.json").read_text("utf-8"))
    companions = request.getfixturevalue("companions") if name in WITH_COMPANIONS else {}
    prompt = in_small(prompt, FRAMES[name], image, upscale_model, companions)
    with av.open(io.BytesIO(client.view(saved_clip(client.run(prompt, graph))))) as container:
        assert container.streams.video[0].average_rate == (8 if name in WITH_COMPANIONS else 12)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)
    side = 192 if name == "second_pass" else 128
    assert frames.shape == (FRAMES[name], side, side, 3)
    assert frames.std(axis=(1, 2)).min() > 5  # no frame is blank
    if name == "start_image":
        first, *others = np.abs(frames - picture).mean(axis=(1, 2, 3))  # what is lost is the small VAE's doing
        assert first < 12 and 3 * first < min(others), (first, others)
    if name == "long_clip":
        resume_id = only(prompt, "SAV_SegmentChain")["resume_id"]
        kept = server.base / "user" / "sdxl-anime-video" / "resume" / resume_id
        assert len(list(kept.glob("*/*.safetensors"))) == 3  # frames 0 to 5, 6 to 9, 10 and 11


@pytest.mark.usefixtures("quiet_log")
def test_the_stills_and_their_sheet(client, repository, companions):
    prompt = json.loads((repository / "workflows" / "api" / "stills.json").read_text("utf-8"))
    history = client.run(in_small(prompt, 1, "", "", companions))
    stills, (sheet,) = (
        history[number]["images"] for number, node in prompt.items() if node["class_type"] == "SaveImage"
    )
    pictures = [np.asarray(Image.open(io.BytesIO(client.view(record)))) for record in stills]
    whole = np.asarray(Image.open(io.BytesIO(client.view(sheet))))
    assert [picture.shape for picture in pictures] == [(128, 128, 3)] * 4
    assert min(picture.std() for picture in pictures) > 5
    assert not np.array_equal(pictures[0], pictures[1])
    assert whole.shape == (2 * 136 + 8, 2 * 136 + 8, 3)
    assert np.array_equal(whole[144:272, 8:136], pictures[2])


@pytest.mark.usefixtures("quiet_log")
def test_twice_the_rate_goes_from_interpolation_into_the_clip(client):
    pictures = {"width": 64, "height": 48, "batch_size": 5, "color": 0x3366CC}
    between = {"images": ["pictures", 0], "fps_in": 12.0, "fps_out": 24.0}
    clip = {"images": ["between", 0], "fps": ["between", 1], "filename_prefix": "between"}
    prompt = {
        "pictures": {"class_type": "EmptyImage", "inputs": pictures},
        "between": {"class_type": "SAV_InterpolateFrames", "inputs": between},
        "save": {"class_type": "SAV_SaveClip", "inputs": {**clip, "crf": 4, "save_frames": False}},
    }
    with av.open(io.BytesIO(client.view(saved_clip(client.run(prompt))))) as container:
        assert container.streams.video[0].average_rate == 24
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == (9, 48, 64, 3)
    assert np.abs(frames.astype(int) - (0x33, 0x66, 0xCC)).max() <= 4


def _not_an_adapter(path):
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, path)


def _truncated(path):
    save_file({"x": torch.zeros(64)}, path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("spoil", [_not_an_adapter, _truncated])
def test_a_bad_adapter_is_explained_and_leaves_nothing(server, client, demo_prompt, spoil):
    folder = server.base / "models" / "temporal_adapters"
    folder.mkdir(exist_ok=True)
    path = folder / f"{spoil.__name__}.safetensors"
    spoil(path)
    only(demo_prompt, "SAV_LoadTemporalAdapter")["adapter_name"] = path.name
    before = files_of(server)
    try:
        with pytest.raises(PromptError, match=path.name) as refusal:
            client.run(demo_prompt)
    finally:
        path.unlink()
    assert refusal.value.details["node_type"] == "SAV_LoadTemporalAdapter"
    assert files_of(server) == before


def test_an_unknown_adapter_is_named(server, client, demo_prompt):
    only(demo_prompt, "SAV_LoadTemporalAdapter")["adapter_name"] = "nowhere.safetensors"
    before = files_of(server)
    # newer ComfyUI refuses the value when it is queued, 0.3.75 lets the node answer
    with pytest.raises(PromptError, match=r"SAV_LoadTemporalAdapter.*nowhere\.safetensors"):
        client.run(demo_prompt)
    assert files_of(server) == before


def test_the_sdxl_graph_takes_other_files_and_is_valid(server, client, repository):
    prompt = json.loads((repository / "workflows" / "api" / "temporal_adapter.json").read_text("utf-8"))
    names = {"checkpoints": "my_sdxl.safetensors", "temporal_adapters": "my_adapter.safetensors"}
    for folder, name in names.items():
        (server.base / "models" / folder).mkdir(exist_ok=True)
        (server.base / "models" / folder / name).touch()
    prompt = with_files(prompt, checkpoint=names["checkpoints"], adapter=names["temporal_adapters"])
    queued = client.queue(prompt)  # raises when any value or link is invalid
    with pytest.raises(PromptError) as refusal:  # the files are empty
        client.wait(queued)
    assert refusal.value.details["node_type"] in ("CheckpointLoaderSimple", "SAV_LoadTemporalAdapter")


def test_an_interrupt_stops_within_a_step(server, client, demo_prompt):
    only(demo_prompt, "SAV_BestHQSigmas")["steps"] = 500
    only(demo_prompt, "SAV_EmptyVideoLatent").update(frames=16, width=128, height=128)  # steps longer than a request
    before = files_of(server)
    values = []

    def stop_once_under_way(event):
        if event["type"] == "progress":
            if not values:
                client.interrupt()
            values.append(event["data"]["value"])

    with pytest.raises(PromptInterrupted):
        client.wait(client.queue(demo_prompt), stop_once_under_way)
    assert values[-1] <= values[0] + 2  # the step under way, and one that began before the request arrived
    assert files_of(server) == before
    only(demo_prompt, "SAV_BestHQSigmas")["steps"] = 1
    only(demo_prompt, "SAV_EmptyVideoLatent")["frames"] = 1
    assert saved_clip(client.run(demo_prompt))  # the server goes on working
