"""Train runs, write their folders, and read them."""
