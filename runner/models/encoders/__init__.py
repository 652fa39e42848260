"""Encoders: images and texts in one space (open_clip, the embedded mini encoder), and sentences (MiniLM)."""
