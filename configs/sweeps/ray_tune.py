"""Search with Ray Tune instead of Optuna: `pip install 'ray[tune]'`, then run this file.

A trial is a `fit` in a process of its own, whose run folder has the name of Ray's trial.
"""

import json
import subprocess
import sys
from pathlib import Path

from ray import tune

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/csv.yaml"
SPACE = {
    "model.recipe.lr": tune.loguniform(1e-5, 1e-3),
    "model.pooling": tune.choice(["MeanPooling", "ClsPooling"]),
    "data.batch_size": tune.choice([16, 32]),
}


def train(values: dict[str, object]) -> None:
    """Train with some values of the space, and report the score of the best checkpoint."""
    name = f"ray-{tune.get_context().get_trial_id()}"
    options = [f"--{key}={value}" for key, value in values.items()]
    command = [sys.executable, "cli.py", "fit", "--config", CONFIG, "--name", name, *options]
    subprocess.run(command, cwd=ROOT, check=True)
    metrics = ROOT / "logs" / Path(CONFIG).stem / name / "metrics.json"
    tune.report({"score": json.loads(metrics.read_text())["val/accuracy"]})


if __name__ == "__main__":
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 4, "gpu": 1}),
        param_space=SPACE,
        tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=20),
    )
    print(tuner.fit().get_best_result().config)
