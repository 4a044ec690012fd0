"""SS-VAE: a sparse distance field to sparse latents an eighth as fine, and back (Direct3D-S2, section 3.1)."""
