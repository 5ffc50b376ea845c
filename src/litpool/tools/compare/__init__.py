"""Train with all loops, one after the other: the same job step by step, and what it costs."""
