"""Search hyperparameters with Optuna, then test whether the best ones really are better."""
