"""The conformer family: MERT-v2, MuQ and MusicFM as one network with a few switches; read `network.py` first."""
