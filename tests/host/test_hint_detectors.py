"""The kinds of Control Hints that need weights, with files in the published formats that hold random numbers."""

import os
import warnings
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import comfy.model_management
import comfy.utils
import folder_paths
import huggingface_hub
import pytest
import safetensors.torch
import torch

import clips
import hint_weights
from node_runs import Interrupted, progress, stop
from sdxl_anime_video.media.detectors import FILES
from sdxl_anime_video.nodes.control_hints import ControlHints
from sdxl_anime_video.temporal.hosts.comfy.pictures.hint_weights import stamp
from sdxl_anime_video.temporal.hosts.comfy.pictures.hints import loaded

KINDS = sorted(FILES)
SMALL = FILES["lineart"]  # the smallest of the files
PUBLISHED = "lllyasviel/Annotators"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the path of a weights file by name; the file is made at the first request."""
    folder = tmp_path_factory.mktemp("published")

    def file(name):
        if not (folder / name).exists():
            hint_weights.write(folder, name)
        return folder / name

    return file


@pytest.fixture
def models(monkeypatch, tmp_path):
    """An empty models/controlnet_aux, no custom nodes, and a hub cache that is empty too."""
    folder = tmp_path / "controlnet_aux"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "controlnet_aux", ([str(folder)], {".pth"}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path / "custom_nodes")], set()))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded.cache_clear()
    return folder


@pytest.fixture
def ready(models, files):
    """The same with the files of some kinds in it."""

    def folder(*kinds):
        for kind in kinds:
            (models / FILES[kind]).hardlink_to(files(FILES[kind]))
        return models

    return folder


def images(frames=2, height=64, width=64):
    return torch.from_numpy(clips.painted(frames, height, width)).float() / 255


def hints(pictures, kind, resolution=0, **settings):
    return ControlHints.execute(pictures, kind, resolution, **settings).args[0]


def of_the_library(kind, folder):
    """controlnet-aux's own detector, loaded by its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux as aux
        from controlnet_aux.open_pose import Body

        if kind == "openpose":  # its from_pretrained also loads hands and faces, which this test does not need
            return aux.OpenposeDetector(Body(folder / FILES[kind]))
        found = {
            "depth": aux.MidasDetector,
            "lineart": aux.LineartDetector,
            "lineart_anime": aux.LineartAnimeDetector,
            "softedge": aux.HEDdetector,
        }[kind]
        beside = {"coarse_filename": SMALL} if kind == "lineart" else {}
        return found.from_pretrained(str(folder), filename=FILES[kind], **beside)


# What is drawn.


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_library(kind, ready):
    """Each frame's hint equals the library's, and no UserWarning is raised."""
    folder, pictures = ready(kind), images(2, 60, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = hints(pictures, kind, 64)
    assert found.shape == (2, 64, 64, 3) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1 and found.std() > 0.01
    assert not torch.equal(found[0], found[1])
    detector, seen = of_the_library(kind, folder), []
    if kind == "depth":
        detector.model.register_forward_hook(lambda module, args, output: seen.append(output[0]))
        network = loaded(*_key(folder, kind)).model.networks[0]
        assert network.pretrained.activations == {}, "nothing stays on the device"
    theirs = detector(clips.painted(2, 60, 60)[1], detect_resolution=64, image_resolution=64, output_type="np")
    assert torch.equal(found[1], torch.from_numpy(theirs) / 255)
    for nearness in seen:  # MiDaS predicts inverse depth
        white = found[1, ..., 0]
        assert white[nearness == nearness.max()].min() == 1 and white[nearness == nearness.min()].max() == 0


@pytest.mark.parametrize("kind", ["lineart", "softedge"])
@pytest.mark.parametrize(("height", "width"), [(37, 90), (8, 8), (65, 129)])
def test_any_size(kind, height, width, ready):
    ready(kind)
    found = hints(images(1, height, width), kind)
    assert found.shape == (1, height, width, 3) and found.min() >= 0 and found.max() <= 1
    assert found.std() > 0.001


@pytest.mark.parametrize("kind", ["lineart", "softedge"])
def test_a_clip_equals_its_parts(kind, ready):
    ready(kind)
    pictures = images(5)
    whole = hints(pictures, kind)
    assert torch.equal(whole, torch.cat([hints(pictures[i : i + 1], kind) for i in range(5)]))
    assert torch.equal(whole, torch.cat([hints(pictures[:4], kind), hints(pictures[4:], kind)]))
    pictures[1] = float("nan")  # not one of the keyframes
    assert torch.equal(hints(pictures, kind, keyframes="100%, 0, 50%"), whole[[4, 0, 2]])


# Where weights are found.


def put(models, layout, file):
    """A file where users of other packs, or of the hub, have it."""
    places = {
        "flat": models,
        "published": models / PUBLISHED,
        "ckpts": models / "ckpts" / PUBLISHED,
        "pack": models.parent / "custom_nodes" / "comfyui_controlnet_aux" / "ckpts" / PUBLISHED,
        "hub": models.parent / "hub" / f"models--{PUBLISHED.replace('/', '--')}" / "snapshots" / ("0" * 40),
    }
    place = places.get(layout, models)
    place.mkdir(parents=True, exist_ok=True)
    if layout == "safetensors":
        target = place / f"{file.stem}.safetensors"
        safetensors.torch.save_file(torch.load(file), target)
    else:
        target = place / file.name
        target.hardlink_to(file)
    if layout == "hub":
        refs = place.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text("0" * 40)
    return target


@pytest.mark.parametrize("layout", ["flat", "published", "ckpts", "safetensors", "pack", "hub"])
def test_every_place(layout, models, files):
    with pytest.raises(FileNotFoundError):
        hints(images(1), "lineart")
    assert ControlHints.fingerprint_inputs(kind="lineart") == ControlHints.fingerprint_inputs(kind="canny") == ""
    target = put(models, layout, files(SMALL))
    mark = ControlHints.fingerprint_inputs(kind="lineart", images=None)
    assert str(target.stat().st_size) in mark and str(models) not in mark
    found = hints(images(1), "lineart")
    loaded.cache_clear()
    if layout != "flat":
        put(models, "flat", files(SMALL))
    assert torch.equal(found, hints(images(1), "lineart"))


def test_ours_comes_before_others(models, files):
    """A file among the models is taken, though there is one in the hub's cache."""
    put(models, "hub", files(FILES["softedge"]))
    (models / FILES["softedge"]).write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="web page"):
        hints(images(1), "softedge")


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("depth", {}, "depth needs dpt_hybrid-midas-501f0c75.pt; put"),
        ("lineart", {"hand": True}, "lineart needs sk_model.pth; put"),
        ("openpose", {"hand": True, "face": True}, "needs body_pose_model.pth and hand_pose_model.pth and facenet.pth"),
        ("softedge", {}, "huggingface.co/lllyasviel/Annotators into models/controlnet_aux, or turn on download"),
    ],
)
def test_missing_files_are_named(kind, settings, words, models):
    with pytest.raises(FileNotFoundError, match=f"^Control Hints: .*{words}"):
        hints(images(1), kind, **settings)


# What is wrong with a file.


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["SAV_EVIL"],)


def nothing_but_numbers(tensors):
    return {**tensors, "model0.1.weight": torch.full_like(tensors["model0.1.weight"], float("nan"))}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: whole[: len(whole) // 2], "cut off or damaged"),
        (lambda whole: b"", "is empty"),
        (lambda whole: b"<html>sign in</html>", "is a web page"),
        ({}, "holds no tensors"),
        ({"x": Evil()}, "cannot be read as tensors alone"),
        ({"x": torch.ones(2)}, r"is of another network: \d+ of \d+ tensors .* the first model0.1.weight"),
        (nothing_but_numbers, "damaged: model0.1.weight holds NaN or infinite values"),
    ],
)
def test_bad_files_are_named(content, words, models, files, tmp_path, monkeypatch):
    monkeypatch.setenv("SAV_EVIL", str(tmp_path / "evil"))
    if content is nothing_but_numbers:
        content = content(torch.load(files(SMALL)))
    if isinstance(content, dict):
        torch.save(content, models / SMALL)
    else:
        (models / SMALL).write_bytes(content(files(SMALL).read_bytes()))
    with pytest.raises(ValueError, match=f"^Control Hints: sk_model.pth .*{words}") as caught:
        hints(images(1), "lineart")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["lineart", "softedge"])
def test_another_networks_file(kind, models, files):
    other = SMALL if kind != "lineart" else FILES["softedge"]
    (models / FILES[kind]).hardlink_to(files(other))
    with pytest.raises(ValueError, match=f"^Control Hints: {FILES[kind]} is of another network"):
        hints(images(1), kind)


@pytest.mark.parametrize("wrap", ["state_dict", "float", "old format"])
def test_other_forms_of_a_file(wrap, models, files):
    tensors = torch.load(files(SMALL))
    if wrap == "float":
        tensors = {key: value.float() for key, value in tensors.items()}
    if wrap == "state_dict":
        tensors = {"state_dict": tensors, "epoch": 3}
    torch.save(tensors, models / SMALL, _use_new_zipfile_serialization=wrap != "old format")
    assert hints(images(1), "lineart").std() > 0.01


# Networks on their device.


def test_kept_while_used_and_let_go_of(ready):
    folder = ready("lineart", "softedge")
    hints(images(1), "lineart")
    patcher = loaded(*_key(folder, "lineart"))
    assert loaded.cache_info().hits == 1
    assert patcher in comfy.model_management.loaded_models()
    first = hints(images(1), "lineart")
    comfy.model_management.unload_all_models()
    assert patcher not in comfy.model_management.loaded_models()
    assert torch.equal(hints(images(1), "lineart"), first)
    assert loaded.cache_info().misses == 1
    gone = weakref.ref(patcher.model)
    del patcher
    hints(images(1), "softedge")
    comfy.model_management.unload_all_models()
    assert gone() is None, "one detector is kept"


def _key(folder, kind):
    name = FILES[kind]
    return kind, ((name, stamp(folder / name)),)


def test_a_new_file_is_read(models):
    hint_weights.write(models, SMALL)
    before, mark = hints(images(1), "lineart"), ControlHints.fingerprint_inputs(kind="lineart")
    tensors = torch.load(models / SMALL)
    torch.save({key: value * 0.5 for key, value in tensors.items()}, models / SMALL)
    assert ControlHints.fingerprint_inputs(kind="lineart") != mark
    assert not torch.equal(hints(images(1), "lineart"), before)


def test_interrupt_between_frames(ready):
    ready("lineart")
    with progress(stop) as seen, pytest.raises(Interrupted):
        hints(images(3), "lineart")
    assert seen == [(1, 3)]


# Downloads, from a hub on this machine.


class Hub(BaseHTTPRequestHandler):
    """Answers requests for one file as the Hugging Face hub does, and sends the file, or half of it."""

    protocol_version = "HTTP/1.1"
    content, asked, part = b"", [], 1.0

    def do_HEAD(self):
        if PUBLISHED in self.path:
            self.asked.append(self.path)
        known = self.path == f"/{PUBLISHED}/resolve/main/{SMALL}"
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", '"2"')
        self.send_header("Content-Length", str(len(self.content) if known else 0))
        self.send_header("Connection", "close")  # tells the client not to reuse a connection that closes
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if self.path.endswith(SMALL):
            self.wfile.write(self.content[: int(len(self.content) * self.part)])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, files):
    """A hub that holds the smallest file, in place of the real one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "content", files(SMALL).read_bytes())
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub
    server.shutdown()
    server.server_close()


def test_nothing_is_fetched_unasked(hub, models, monkeypatch):
    def connect(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", connect)
    for kind in KINDS:
        with pytest.raises(FileNotFoundError):
            hints(images(1), kind)
        ControlHints.fingerprint_inputs(kind=kind, download=True)
    assert hub.asked == []


def test_a_file_is_fetched_when_asked_for(hub, models, files):
    with progress() as seen:
        found = hints(images(1), "lineart", download=True)
    assert (models / SMALL).read_bytes() == files(SMALL).read_bytes()
    assert set(hub.asked) == {f"/{PUBLISHED}/resolve/main/{SMALL}"}
    size = len(hub.content)
    assert (size, size) in seen, "ComfyUI's bar shows the download"
    count = len(hub.asked)
    assert torch.equal(hints(images(1), "lineart", download=True), found)
    assert len(hub.asked) == count, "what is there is not fetched again"


def test_half_a_file_is_none(hub, models, monkeypatch):
    monkeypatch.setattr(Hub, "part", 0.5)
    with pytest.raises(ConnectionError, match=r"^Control Hints: cannot download sk_model\.pth"):
        hints(images(1), "lineart", download=True)
    assert not (models / SMALL).exists()


def test_a_hub_without_the_file(hub, models):
    words = r"^Control Hints: cannot download ControlNetHED\.pth .*put the file"
    with pytest.raises(ConnectionError, match=words) as caught:
        hints(images(1), "softedge", download=True)
    assert "\n" not in str(caught.value)


def test_interrupted_download(hub, models, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 20)
    with progress(stop), pytest.raises(Interrupted):
        hints(images(1), "lineart", download=True)
    assert not (models / SMALL).exists()
