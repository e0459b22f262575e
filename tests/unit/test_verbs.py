"""What verbs do with errors: one line that names the verb, and a status."""

import subprocess
import sys

import pytest

from sdxl_anime_video import __main__ as command
from sdxl_anime_video.commands.config import ConfigError
from sdxl_anime_video.commands.verbs import run_verb


def failing(error: BaseException):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("steps: no number,\n  given: many"), "error: train: steps: no number, given: many\n"),
        (FileExistsError(17, "File exists", "out"), "error: train: out: File exists\n"),
        (OSError(28, "No space left", "a"), "error: train: a: No space left; make room on the disk\n"),
        (OSError("no room"), "error: train: no room\n"),
        (ModuleNotFoundError("No module", name="lance"), "error: train: lance is not installed; pip install -r"),
        (ValueError("x" * 9000), "error: train: " + "x" * 2000 + " ...\n"),
    ],
)
def test_an_error_is_one_line_that_names_the_verb(error, line, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert run_verb("train", failing(error), "") == 1
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_what_every_process_has_is_said_by_the_first_alone(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run_verb("train", failing(FloatingPointError("loss is nan")), "") == 1
    assert capsys.readouterr().err == ""
    assert run_verb("train", failing(OSError("no room")), "") == 1
    assert capsys.readouterr().err == "error in process 1: train: no room\n"


def test_status_interrupt_and_faults_of_the_program(capsys):
    assert run_verb("evaluate", lambda: None, "") == 0
    assert run_verb("evaluate", lambda: 3, "") == 3
    assert run_verb("render", failing(KeyboardInterrupt()), "nothing was written") == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    with pytest.raises(KeyError):
        run_verb("render", failing(KeyError("a fault")), "")


@pytest.mark.parametrize("verb", command.VERBS)
def test_help_is_given_wherever_it_is_asked_for_and_at_once(verb):
    code = f"""
import sys
from sdxl_anime_video.__main__ import main
try:
    status = main([{verb!r}, "config", "--help"])
finally:
    assert not {{"torch", "diffusers"}} & sys.modules.keys()
sys.exit(status)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: sdxl-anime-video {verb} ")
    assert "--output (required)" in done.stdout or verb in ("evaluate", "inspect", "convert")


def test_a_verb_with_nothing_to_do_says_so(capsys):
    assert command.main(["train"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("usage: ")


def test_memory_without_a_dry_run_is_no_unknown_field(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("clips: in\noutput: out\n")
    assert command.main(["train", str(config), "--memory", "20GB"]) == 1
    assert "--memory is for --dry-run; add that, or leave --memory out" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "convert"])
def test_the_other_verbs_say_what_they_want(verb, capsys):
    for words, status in (["--help"], 0), ([], 2):
        with pytest.raises(SystemExit) as caught:
            command.main([verb, *words])
        assert caught.value.code == status
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: sdxl-anime-video {verb} [-h]") and "required" in said.err
