"""The recipe of ecg-beats."""
