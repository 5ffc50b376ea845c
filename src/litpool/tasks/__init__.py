"""The tasks, one file each: tokens, head, loss, metrics, answers."""
