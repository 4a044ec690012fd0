"""Evaluation protocols as data: one TOML file each, read by `eval.protocols.protocol`."""
