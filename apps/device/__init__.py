"""Looking at devices, recording from them, and playing recordings as if they were devices."""
