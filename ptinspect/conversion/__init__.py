"""From one file to another: state_dicts, checkpoints, safetensors, today's zip."""
