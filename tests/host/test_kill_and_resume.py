"""A chain killed at a random moment resumes and ends in the same latents. `SAV_KILLS=20` tests 20 moments."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import torch

KILLS = int(os.environ.get("SAV_KILLS", "1"))
FRAMES, STEPS = 14, 12


def render(resume_id: str = "") -> torch.Tensor:
    from comfy_extras.nodes_model_advanced import RescaleCFG

    from clip_sampling import adapted, chained, correlated, ksample, model

    plain = correlated(adapted(model()), "progressive", 0.6)
    patched = RescaleCFG().patch(chained(plain, 4, 2, resume_id=resume_id), 0.7)[0]
    return ksample(patched, "dpmpp_2m_sde", frames=FRAMES, steps=STEPS)


def start(user: str, resume_id: str) -> subprocess.Popen:
    """Render in a process of its own; returns once the sampling begins."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, __file__, user, resume_id]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert child.stdout and child.stdout.readline() == "sampling\n"
    return child


def test_killed_at_random_moments(resume_id):
    import folder_paths

    from resuming import segments

    render()  # warm, as in the child
    began = time.monotonic()
    expected = render()
    takes = time.monotonic() - began
    moments = random.Random(3)
    found = []
    for i in range(KILLS):
        name = f"{resume_id}-{i}"
        child = start(folder_paths.get_user_directory(), name)
        time.sleep(moments.uniform(0.0, 0.9) * takes)
        child.kill()
        child.wait()
        finished = {path: path.stat().st_mtime_ns for path in segments(name)}
        found.append(len(finished))
        assert torch.equal(render(name), expected), f"killed after {found[-1]} segments"
        assert all(path.stat().st_mtime_ns == written for path, written in finished.items())  # none sampled again
        assert len(segments(name)) == 6
    assert min(found) < 6, "no kill fell into the chain"
    sys.stdout.write(f"finished segments at {KILLS} kills: {found}\n")


if __name__ == "__main__":
    import conftest  # isort: skip  # the real ComfyUI, as in the tests
    import folder_paths

    user, resume_id = sys.argv[1:]
    assert Path(user) != conftest.BASE
    folder_paths.set_user_directory(user)
    render()  # warm, so that the kill falls into the chain
    print("sampling", flush=True)  # noqa: T201
    render(resume_id)
