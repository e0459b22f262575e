"""What verbs do with errors: one line that names the verb, and a status."""

import pytest

from sdxl_anime_video.training.config import ConfigError
from sdxl_anime_video.training.verbs import run_verb


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
