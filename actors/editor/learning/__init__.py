"""Words and LoRAs that an editor learns from edited pictures: how, their files, and their place in its drawing."""
