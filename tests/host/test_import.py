"""ComfyUI pays little for importing the pack."""

import comfy.model_management
import nodes


def test_comfyui_is_real(comfyui_dir):
    assert nodes.__file__.startswith(str(comfyui_dir))
    assert comfy.model_management.cpu_state == comfy.model_management.CPUState.CPU
