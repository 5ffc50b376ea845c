"""What `fit` needs of its run folder, and of a checkpoint to resume from, told at the start."""

import pytest
import torch


def test_a_run_folder_that_cannot_be_made_is_told_in_one_line(cli, job, tmp_path):
    (tmp_path / "logs").write_text("a file")
    status, _, err = cli("fit", *job)
    assert (status, err.count("\n")) == (1, 1), err
    assert "the run folder cannot be made" in err


KEYS = ["callbacks", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"]


@pytest.mark.parametrize("key", [*KEYS, "rng"])
def test_a_training_state_that_cannot_be_restored_is_told_in_one_line(cli, train, key):
    path = train("fit")["folder"] / "checkpoints/last.ckpt"
    good = torch.load(path, weights_only=True)
    for bad in (7, [7]):
        saved = {**good, key: bad}
        if key == "rng":
            saved = {**good, "job": {**good["job"], "rng": {"cpu": bad}}}
        torch.save(saved, path)
        status, _, err = cli("fit", "--ckpt_path", path, "--trainer.max_epochs", 4)
        assert (status, err.count("\n")) == (2, 1), err


def test_fit_names_what_it_needs_of_a_checkpoint_before_it_starts(cli, train):
    run = train("fit")["folder"] / "checkpoints"
    (run / "best.ckpt").unlink()
    status, _, err = cli("fit", "--ckpt_path", run / "last.ckpt")
    assert (status, err.count("\n")) == (2, 1), err
    assert "best.ckpt, is missing" in err
    last = train("fit_plain")["folder"] / "checkpoints/last.ckpt"
    status, _, err = cli("fit", "--ckpt_path", last)
    assert (status, err.count("\n")) == (2, 1), err
    assert "if fit_plain or fit_hf wrote it, resume with that command" in err
