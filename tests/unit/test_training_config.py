"""Configs: what is read, what is refused, and that the message helps."""

from pathlib import Path

import pytest

from sdxl_anime_video.training.config import (
    ConfigError,
    TrainConfig,
    describe_fields,
    parse_overrides,
    read_config,
)

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text("clips: in\noutput: out\n" + text)
        return path

    return write


def test_values_are_read_and_overridden(config_file):
    path = config_file("steps: 5\nlearning_rate: 1e-3\nframes: [4, 8]\n")
    config = read_config(path, parse_overrides(["--steps", "7", "--norm=false", "--frames", "[6]", "--minutes", "1.5"]))
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
    with pytest.raises(ConfigError, match="clips: Field required"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate: 1\n", "unknown field 'learnin_rate'; did you mean 'learning_rate'?"),
        ("lr: 1\n", "unknown field 'lr'"),
        ("num_frames: 8\n", "did you mean"),
        ("steps: many\n", "steps: Input should be a valid integer"),
        ("steps: 0\n", "steps: Input should be greater than 0"),
        ("noise_correlation: 2\n", "noise_correlation"),
        ("frames: []\n", "frames: is empty"),
        ("frames: [32]\n", "32 is more than max_frames 24"),
        ("snr_floor: 9\n", "snr_floor: 9.0 is above min_snr_gamma"),
        ("init: gates\n", "init"),
        ("precision: fp16\n", "precision"),
        ("a: [\n", "not a YAML file"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config_file, text, message):
    with pytest.raises(ConfigError) as caught:
        read_config(config_file(text))
    assert message in str(caught.value)


def test_a_config_that_is_no_mapping_or_no_file(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected `field: value`"):
        read_config(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("words", [["steps=5"], ["--steps"], ["5"]])
def test_overrides_that_cannot_be_read(words):
    with pytest.raises(ConfigError, match="--field value"):
        parse_overrides(words)


def test_an_unknown_override_names_the_nearest_field():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        parse_overrides(["--learning-rat", "1"])


def test_every_field_is_documented():
    text = describe_fields()
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name
        assert f"--{name.replace('_', '-')} " in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path):
    assert read_config(path).base == "toon"
