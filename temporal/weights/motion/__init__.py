"""Files of motion modules, in the layouts of their authors, and motion LoRAs."""
