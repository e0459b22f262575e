"""What saved graphs and artists rely on: node ids, socket names and order, defaults, tooltips, help pages."""

import ast
import asyncio
import re

import pytest

from sdxl_anime_video import comfy_entrypoint

# node id: inputs that saved graphs rely on, in order, with their defaults (without one, or None: a socket, or a list of
# files), and the names of all outputs. Further inputs must be optional.
TABLE = {
    "SAV_ApplyMotionModule": (
        "model, motion_module, strength=1.0, start_percent=0.0, end_percent=1.0, beta_schedule='auto', "
        "down_strength=1.0, mid_strength=1.0, up_strength=1.0 -> model"
    ),
    "SAV_ApplyTemporalAdapter": "model, adapter, strength=1.0, start_percent=0.0, end_percent=1.0 -> model",
    "SAV_BestHQSampler": "smoothing=0.0 -> sampler",
    "SAV_BestHQSigmas": "model, steps=28, denoise=1.0 -> sigmas",
    "SAV_ContextWindows": "model, length=16, overlap=4, schedule='uniform', fuse='pyramid' -> model",
    "SAV_ControlHints": "images, kind='canny', resolution=768 -> images",
    "SAV_ControlKeyframes": (
        "positive, negative, control_net, hints, frames=16, keyframes='0,25%,50%,75%,100%', strength=1.0, "
        "falloff='none', start_percent=0.0, end_percent=1.0, vae=None -> positive, negative"
    ),
    "SAV_CorrelatedNoise": "model, mode='shared', correlation=0.5 -> model",
    "SAV_DecodeAndSaveClip": (
        "samples, vae, tile_size=0, fps=12.0, filename_prefix='video/clip', crf=16, save_frames=False, audio=None "
        "-> video"
    ),
    "SAV_DemoModel": " -> model, clip, vae",
    "SAV_EmptyVideoLatent": "width=768, height=768, frames=16 -> latent, frames",
    "SAV_FrameSmoothing": "model, amount=0.1, start_percent=0.0, end_percent=1.0 -> model",
    "SAV_ImageGrid": "images, columns=0, labels='' -> image",
    "SAV_InterpolateFrames": "images, fps_in=12.0, fps_out=24.0 -> images, fps",
    "SAV_KeyframeAnchor": (
        "model, every=4, strength=1.0, band='low', start_percent=0.0, end_percent=1.0, latent=None, positions='' "
        "-> model"
    ),
    "SAV_LoadMotionModule": "motion_module_name -> motion_module",
    "SAV_LoadTemporalAdapter": "adapter_name -> adapter",
    "SAV_LoraStack": (
        "model, clip, lora_1='None', weight_1=0.8, lora_2='None', weight_2=0.25, lora_3='None', weight_3=0.6, "
        "speed_lora='None', speed_weight=1.0, prompt='' -> model, clip, prompt, report"
    ),
    "SAV_MotionLora": "motion_module, lora_name, strength=1.0 -> motion_module",
    "SAV_PromptSchedule": "clip, prompts='', frames=16, interpolation='hold', width=0, height=0 -> conditioning",
    "SAV_SamplingPreset": (
        "model, preset='best_hq', steps=0, cfg=0.0, denoise=1.0 -> model, sampler, sigmas, cfg, steps"
    ),
    "SAV_SegmentChain": (
        "model, segment_frames=16, overlap=4, carry='overlap', carry_denoise=0.8, resume_id='' -> model"
    ),
    "SAV_SaveClip": "images, fps=12.0, filename_prefix='video/clip', crf=16, save_frames=False, audio=None -> video",
}
COMBOS = {
    ("SAV_ApplyMotionModule", "beta_schedule"): [
        "auto",
        "sdxl",
        "scaled-linear 0.00085-0.020",
        "scaled-linear 0.00085-0.012",
        "linear 0.00085-0.012",
    ],
    ("SAV_ContextWindows", "schedule"): ["uniform", "static", "looped"],
    ("SAV_ContextWindows", "fuse"): ["pyramid", "overlap_linear", "flat"],
    ("SAV_SamplingPreset", "preset"): ["best_hq", "lcm", "sde"],
    ("SAV_ControlHints", "kind"): ["openpose", "depth", "lineart", "lineart_anime", "softedge", "canny"],
    ("SAV_ControlKeyframes", "falloff"): ["none", "linear", "smooth"],
    ("SAV_SegmentChain", "carry"): ["overlap", "last_frame"],
    ("SAV_CorrelatedNoise", "mode"): ["shared", "additive", "progressive", "freenoise"],
    ("SAV_KeyframeAnchor", "band"): ["low", "all"],
    ("SAV_PromptSchedule", "interpolation"): ["hold", "linear", "smooth", "slerp"],
}

NODES = {node.GET_SCHEMA().node_id: node for node in asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())}
SCHEMAS = {node_id: node.GET_SCHEMA() for node_id, node in NODES.items()}


def row_of(node_id: str) -> tuple[dict, list[str]]:
    """Default of each input, and the outputs, as TABLE has them."""
    inputs, outputs = TABLE[node_id].split(" -> ")
    found = ast.parse(f"lambda {inputs}: 0", mode="eval").body.args
    values = [ast.literal_eval(value) for value in found.defaults]
    values = [None] * (len(found.args) - len(values)) + values
    return dict(zip([one.arg for one in found.args], values, strict=True)), outputs.split(", ")


@pytest.fixture(params=sorted(SCHEMAS))
def schema(request):
    return SCHEMAS[request.param]


def test_the_nodes_are_these():
    assert set(SCHEMAS) == set(TABLE)


def test_identity(schema):
    assert re.fullmatch(r"SAV_[A-Z]\w+", schema.node_id)
    assert schema.category.startswith("SDXL Anime Video/")
    assert schema.display_name
    assert schema.description


def test_sockets_are_the_public_ones(schema):
    public, outputs = row_of(schema.node_id)
    inputs = [socket for socket in schema.inputs if socket.id in public]
    assert [socket.id for socket in inputs] == list(public)
    assert {socket.id: getattr(socket, "default", None) for socket in inputs} == public
    assert all(socket.optional for socket in schema.inputs if socket.id not in public)
    assert [socket.display_name for socket in schema.outputs] == outputs


def test_required_inputs_come_first(schema):
    optional = [bool(socket.optional) for socket in schema.inputs]
    assert optional == sorted(optional)


def test_every_socket_has_a_tooltip(schema):
    without = [socket.id for socket in [*schema.inputs, *schema.outputs] if len(socket.tooltip or "") < 10]
    assert without == []


def test_output_ids_differ_from_input_ids(schema):
    inputs = {socket.id for socket in schema.inputs}
    assert [socket.id for socket in schema.outputs if socket.id in inputs] == []


def test_help_page_names_every_socket(schema, repository):
    page = (repository / "web" / "docs" / f"{schema.node_id}.md").read_text("utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    sockets = [*(socket.id for socket in schema.inputs), *(socket.display_name for socket in schema.outputs)]
    assert [name for name in sockets if not re.search(rf"(\*\*|`){re.escape(name)}(\*\*|`)", page)] == []


def test_every_help_page_has_a_node(repository):
    assert {page.stem for page in (repository / "web" / "docs").glob("*.md")} == set(SCHEMAS)


@pytest.mark.parametrize(("node_id", "name"), COMBOS)
def test_choices(node_id, name):
    (socket,) = (socket for socket in SCHEMAS[node_id].inputs if socket.id == name)
    assert list(socket.options) == COMBOS[node_id, name]


def test_the_front_end_gets_valid_schemas(schema):
    """The same call that `/object_info` makes: ComfyUI's own checks and the V1 form that every front end reads."""
    info = NODES[schema.node_id].GET_NODE_INFO_V1()
    assert info["name"] == schema.node_id
    assert len(info["output_tooltips"]) == len(schema.outputs)
