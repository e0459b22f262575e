"""Configs: what is read, what is refused, and that the message helps."""

from pathlib import Path

import pytest

from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.commands.overrides import parse_overrides, read_config
from sdxl_anime_video.commands.verbs import describe_fields
from sdxl_anime_video.training.config.train import TrainConfig
from sdxl_anime_video.training.run import verb as cli

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))


def read(path: Path, *words: str, **fields) -> TrainConfig:
    return read_config(path, {**parse_overrides(list(words), TrainConfig), **fields}, TrainConfig)


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text("clips: in\noutput: out\n" + text)
        return path

    return write


def test_values_are_read_and_overridden(config_file):
    path = config_file("steps: 5\nlearning_rate: 1e-3\nframes: [4, 8]\n")
    config = read(path, "--steps", "7", "--norm=false", "--frames", "[6]", "--minutes", "1.5")
    assert (config.steps, config.learning_rate, config.frames, config.norm, config.minutes) == (
        7,
        1e-3,
        [6],
        False,
        1.5,
    )
    assert config.clips == Path("in")


def test_nothing_is_silently_optional(config_file):
    path = config_file("")
    path.write_text("steps: 5\n")
    with pytest.raises(ConfigError, match="clips is missing; add --clips VALUE; output is missing; add --output VALUE"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate: 1\n", "unknown field 'learnin_rate'; did you mean 'learning_rate'?"),
        ("lr: 1\n", "unknown field 'lr'"),
        ("num_frames: 8\n", "did you mean"),
        ("steps: many\n", "steps: Input should be a valid integer"),
        ("steps: 0\n", "steps: Input should be greater than 0"),
        ("noise_correlation: 2\n", "noise_correlation"),
        ("frames: []\n", "frames: List should have at least 1 item"),
        ("frames: [1]\n", "frames.0: Input should be greater than or equal to 2 (given: 1)"),
        ("betas: [0.9, 1]\n", "betas.1: Input should be less than 1 (given: 1)"),
        ("seed: 99999999999999999999\n", "seed: Input should be less than 18446744073709551616"),
        ("seed: -1\n", "seed: Input should be greater than or equal to 0"),
        ("learning_rate: .inf\n", "learning_rate: Input should be a finite number"),
        ("device: foo\n", "device: is none of auto, cpu, cuda, cuda:N (given: 'foo')"),
        ("device: cuda:99\n", "CUDA devices; use cpu, or auto to choose (given: 'cuda:99')"),
        ("output: ''\n", "output: is empty; name a folder"),
        ("resume: ''\n", "resume: String should have at least 1 character"),
        ("frames: [32]\n", "32 is more than max_frames 24"),
        ("snr_floor: 9\n", "snr_floor: 9.0 is above min_snr_gamma"),
        ("init: gates\n", "init"),
        ("stages: [{until: 0.5, frames: [32]}]\n", "stages: frames [32] go beyond max_frames 24"),
        ("stages: [{until: 0.5}, {until: 0.4}]\n", "stages: the phases end at [0.5, 0.4]"),
        ("stages: [{resolution: 64}]\n", "stages.0.until is missing"),
        ("noise_curriculum: [{correlation: 0.5}]\n", "noise_curriculum: the phases end at [1]"),
        ("noise_curriculum: [{until: 0.5, corelation: 1}]\n", "noise_curriculum.0.corelation"),
        ("sample_steps: 5\n", "nothing to render; give validation_clips or validation_captions"),
        ("temporal_dropout: 1\n", "temporal_dropout: Input should be less than 1"),
        ("precision: fp8\n", "precision"),
        ("frames: 8,16\n", "frames: is no list; write it in brackets and quotes, such as '[8, 16]' (given: '8,16')"),
        ("a: [\n", "not a YAML file"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config_file, text, message):
    with pytest.raises(ConfigError) as caught:
        read(config_file(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_number_of_frames_needs_no_brackets(config_file):
    assert read(config_file("frames: 8\n")).frames == [8]
    assert read(config_file(""), "--frames", "8").frames == [8]


def test_a_config_that_is_no_mapping_or_no_file(tmp_path):
    with pytest.raises(ConfigError, match="is a folder; give the file in it"):
        read(cli.preset_or_file(str(tmp_path)))
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected `field: value`"):
        read(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "none.yaml")


@pytest.mark.parametrize("words", [["steps=5"], ["--steps"], ["5"]])
def test_overrides_that_cannot_be_read(words):
    with pytest.raises(ConfigError, match="--field value"):
        parse_overrides(words, TrainConfig)


@pytest.mark.parametrize("value", ["a: b: c", "@foo", "2024", "null", "", "[x"])
def test_a_name_or_path_is_taken_as_it_is(config_file, value):
    words = ["--dataset", value, "--output", f"out/{value}", f"--clips=2024{value}"]
    config = read(config_file(""), *words)
    assert (config.dataset, config.output, config.clips) == (value, Path("out", value), Path(f"2024{value}"))


def test_resume_can_be_named_and_taken_back(config_file):
    path = config_file("resume: latest\n")
    assert read(path, "--resume", "2024").resume == "2024"
    assert read(path, "--resume", "null").resume is None


@pytest.mark.parametrize("words", [["--frames", "@8"], ["--steps", "a: b: c"], ["--steps", "2024-13-45"]])
def test_a_value_that_is_no_yaml_is_one_line(words):
    with pytest.raises(ConfigError, match=f"cannot read {words[0][2:]} '{words[1]}'") as caught:
        parse_overrides(words, TrainConfig)
    assert "\n" not in str(caught.value)


def test_an_unknown_override_names_the_nearest_field():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        parse_overrides(["--learning-rat", "1"], TrainConfig)


def test_every_field_is_documented():
    text = describe_fields(TrainConfig)
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name
        assert f"--{name.replace('_', '-')} " in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path):
    toon = path.stem.startswith("toon")
    config = read(path, **({} if toon else {"clips": "in"}))
    assert config.base == ("toon" if toon else "sdxl")
