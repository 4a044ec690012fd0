"""Encoders that put shapes, images and texts into one space, and the similarities measured there."""
