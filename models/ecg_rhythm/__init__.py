"""The recipe of ecg-rhythm."""
