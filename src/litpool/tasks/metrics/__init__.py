"""Metrics that torchmetrics does not have. Only `Task.metrics` imports them: it takes seconds."""
