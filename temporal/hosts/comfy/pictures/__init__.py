"""Pictures of a clip in ComfyUI: hints for ControlNets, another frame rate, saving."""
