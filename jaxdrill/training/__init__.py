"""Training: the step, the loop, and the compiled functions. It writes no files."""
