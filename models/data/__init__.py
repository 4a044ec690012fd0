"""Meshes to sparse signed distance fields and back."""
