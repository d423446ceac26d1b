"""What runs on the device: from chunks of samples to alerts that are kept."""
