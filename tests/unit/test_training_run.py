"""What a run leaves in its folder beside the adapter: rendered clips, curves, the report. And how long it takes."""

import re

import numpy as np
import pytest
from PIL import Image

from runs import painted_clips, write_config
from sdxl_anime_video.media.reader import read_clip
from sdxl_anime_video.temporal.measure import metrics
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run import report
from sdxl_anime_video.training.run import verb as cli
from sdxl_anime_video.training.run.journal import read_log
from sdxl_anime_video.training.run.progress import Bars, Eta, clock


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_config(
        folder,
        clips=painted_clips(folder / "clips"),
        output=folder / "out",
        steps=4,
        validation_clips=1,
        validation_steps=2,
        sample_steps=2,
        sampler_steps=2,
        checkpoint_steps=2,
    )


@pytest.fixture(scope="module")
def run_folder(config_file):
    assert cli.main([str(config_file)]) == 0
    return config_file.parent / "out"


def test_clips_are_rendered_measured_and_beside_the_clip_itself(run_folder):
    events = [event for event in read_log(run_folder / "log.jsonl") if "samples" in event]
    assert [event["samples"] for event in events] == ["samples/step-00000002", "samples/step-00000004"]
    frames, fps = read_clip(run_folder / events[-1]["samples"] / "0.mp4")
    assert frames.shape == (4, 64, 64, 3) and fps == 12
    assert events[-1]["flicker"] == pytest.approx(metrics.flicker(frames), rel=0.1)  # but for the compression
    assert events[-1]["motion"] > 0 and events[-1]["warp_error"] > events[-1]["real_warp_error"]
    sheet = np.asarray(Image.open(run_folder / events[-1]["samples"] / "contact_sheet.png"))
    assert sheet.shape[1] >= 4 * 144 and sheet.shape[0] >= 2 * 144  # two rows of four frames
    assert not list(run_folder.rglob("*.part"))


def test_tensorboard_has_the_curves_of_the_log(run_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    logged = [event for event in read_log(run_folder / "log.jsonl") if "loss" in event]
    seen = [(scalar.step, pytest.approx(scalar.value, rel=1e-6)) for scalar in events.Scalars("loss")]
    assert [(event["step"], event["loss"]) for event in logged] == seen
    wanted = {"loss", "lr", "validation", "validation/0.3", "flicker", "warp_error", "motion"}
    assert wanted <= set(events.Tags()["scalars"])


def test_the_report_holds_everything_and_asks_for_nothing(run_folder):
    page = (run_folder / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") >= 6 and page.count("data:video/mp4;base64,") == 2
    assert page.count("data:image/png;base64,") == 2
    for title in ("loss", "lr", "validation, over its first value", "flicker", "warp_error", "motion"):
        assert f'aria-label="{title}"' in page
    assert "4 steps in" in page and "sampler_steps: 2" in page


def test_what_does_not_fit_into_the_report_is_linked_to(run_folder):
    whole = (run_folder / "report.html").read_text()
    report.write_report(run_folder, 0)
    page = (run_folder / "report.html").read_text()
    assert "data:" not in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (run_folder / link).is_file()
    assert page.count("href=") == 4 and "report_megabytes are used up" in page
    (run_folder / "report.html").write_text(whole)


def test_given_captions_are_rendered_instead(config_file, tmp_path):
    words = ["--output", str(tmp_path / "out"), "--validation-captions", "[red hair, 'a, b & c']", "--steps", "1"]
    assert cli.main([str(config_file), *words, "--sample-steps", "1", "--tensorboard", "false"]) == 0
    assert not (tmp_path / "out" / "tensorboard").exists()
    names = sorted(path.name for path in (tmp_path / "out" / "samples" / "step-00000001").iterdir())
    assert names == ["0.mp4", "1.mp4", "contact_sheet.png"]


def test_a_log_is_read_past_kills_and_repeats(tmp_path):
    lines = ['{"step": 1, "loss": 1.0}', '{"step": 2, "loss": 2.0}', '{"step": 2, "samples": "a"}', '{"step": 2, "lo']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 2, "loss": 3.0}\n')
    events = read_log(tmp_path / "log.jsonl")
    assert events == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 3.0}, {"step": 2, "samples": "a"}]


def test_long_curves_are_thinned_and_gaps_left_out():
    curve = report.thinned([(i, float(i % 2)) for i in range(10_000)], 100)
    assert len(curve) == 100 and all(value == 0.5 for _, value in curve)
    assert "nan" not in report.plot("loss", {"loss": [(1, 1.0), (2, float("nan")), (3, 2.0)]})
    assert report.plot("loss", {"loss": [(1, float("nan"))]}) == ""


def test_the_time_left_counts_what_comes_between_the_steps():
    eta = Eta(100, every={"validation": 10, "samples": 50})
    assert eta.remaining(0, 0) is None
    for _ in range(50):
        eta.step(5.0)
    for _ in range(50):
        eta.step(1.0)  # the last 50 count
    assert eta.remaining(60, 0) == pytest.approx(40)
    eta.other("validation", 3.0)
    eta.other("samples", 20.0)
    assert eta.remaining(60, 0) == pytest.approx(40 + 4 * 3 + 20)
    limited = Eta(100, limit=70)
    limited.step(1.0)
    assert limited.remaining(1, 65) == 5
    assert (clock(3723), clock(None)) == ("1:02:03", "-:--:--")


def test_a_log_file_tells_every_minute_where_a_run_is(tmp_path, capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bars = Bars(TrainConfig(clips=tmp_path, output=tmp_path, steps=100))  # capsys is no terminal
    for step in range(1, 101):
        now += 1.5
        bars.eta.step(1.5)
        bars.event({"step": step, "loss": 0.5, "seconds": now})
    bars.encoded(9, 20)
    now += 60
    bars.encoded(12, 20)
    assert capsys.readouterr().err.splitlines() == [
        "step 40 of 100: loss 0.50000, 0:01:30 left",
        "step 80 of 100: loss 0.50000, 0:00:30 left",
        "encode clips: 12 of 20",
    ]


@pytest.mark.parametrize("preset", ["quick", "standard", "quality"])
def test_a_preset_is_found_by_its_name_from_anywhere(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([preset]) == 1
    assert f"{preset}.yaml: clips is missing; add --clips VALUE" in capsys.readouterr().err
    assert cli.main([preset, "--clips", "in", "--base", "/nowhere"]) == 1
    assert "clips: folder in does not exist" in capsys.readouterr().err  # before the base, which takes long to load


def test_a_name_that_is_neither_preset_nor_file(capsys):
    assert cli.main(["quik"]) == 1
    error = capsys.readouterr().err
    assert "config quik does not exist" in error and "quality, quick, standard" in error


def test_a_preset_wants_a_real_base(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["standard", "--clips", "in"]) == 1
    assert "base: sdxl is only the shapes of SDXL; give your checkpoint with --base" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
