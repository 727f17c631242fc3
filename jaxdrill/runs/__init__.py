"""Runs: the run folder, checkpoints, weights, provenance, events, and the session that trains and resumes."""
