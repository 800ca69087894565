"""`make demo`: the main job on a stack of its own, with real data, told as it happens."""
