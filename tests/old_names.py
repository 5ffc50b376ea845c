"""Names in the files of version 0.1.0, which stay the same if the package is renamed."""

JOB = "lit" + "pool"
"""The key of the job in its checkpoints. In two parts, so that `make rename` leaves it as it is."""
