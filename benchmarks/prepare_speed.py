"""How fast `prepare` is, as a ratio to a plain PyAV decode of the same file.

    python -m sdxl_anime_video.benchmarks.prepare_speed VIDEO --resolution 768  # all but the VAE
    # and with the toon world's VAE, on the CPU
    python -m sdxl_anime_video.benchmarks.prepare_speed VIDEO --resolution 128 --toon

`decode` reads every frame and does nothing with it. `walk` decodes, too, finds cuts, chooses frames, scales and
judges them; `encode` adds the VAE. Processor time of all threads counts, the best of some rounds: a busy machine
changes it least.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av

from ..training.prepare.options import PrepareConfig
from ..training.prepare.reading.sources import Source
from ..training.prepare.walk import walk


def decode(file: Path) -> int:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--resolution", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toon", action="store_true", help="with the toon world's VAE")
    options = parser.parse_args()
    config = PrepareConfig(videos=[options.video], output="-", checkpoint="toon", resolution=options.resolution)
    source = Source(options.video.name, "video", [str(options.video)])
    work: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(options.video),
        "walk": lambda: sum(1 for _ in walk(source, config, 32, 8)),
    }
    if options.toon:
        from ..training.prepare.walk import encode_row, open_model

        base, multiple = open_model(config)
        work["encode"] = lambda: [encode_row(base, row, 4, "fp32") for row in walk(source, config, multiple, 8)]
    best = dict.fromkeys(work, float("inf"))
    for _ in range(options.rounds):
        best = {name: min(best[name], seconds(step)) for name, step in work.items()}
    frames = decode(options.video)
    for name, time_taken in best.items():
        rate = frames / time_taken
        sys.stdout.write(
            f"{name:8}{time_taken:8.3f} s  {rate:8.1f} frames/s  {time_taken / best['decode']:6.2f} of decode\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
