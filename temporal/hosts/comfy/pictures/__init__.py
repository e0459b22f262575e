"""Pictures of a clip in ComfyUI: hints for ControlNets, decoding, another frame rate, saving."""
