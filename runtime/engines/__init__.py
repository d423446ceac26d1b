"""The engines that can take a step, one file each."""
