"""`sdxl-anime-video prepare VIDEOS ... -o CACHE --checkpoint SDXL [--field value ...]`."""

from ...commands.overrides import make_config, parse_overrides
from ...commands.verbs import answer, run_verb
from .options import PrepareConfig

USAGE = """usage: sdxl-anime-video prepare VIDEOS ... -o CACHE --checkpoint SDXL [--field value ...]

Cuts videos into clips, encodes them, and keeps them in a cache that `train` reads (clips: CACHE). Fields:
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. Errors of the user's making are one line on stderr."""
    status = answer(arguments, USAGE, PrepareConfig)
    return run_verb("prepare", lambda: _prepare(arguments), "the same command goes on") if status is None else status


def _prepare(arguments: list[str]) -> None:
    config = make_config(PrepareConfig, parse_overrides(arguments, PrepareConfig, "videos"), "command line")
    from .run import prepare  # only now: PyTorch takes seconds to load

    prepare(config)
