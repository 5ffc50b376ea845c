"""The loop by hand: what Lightning and the Hugging Face Trainer do for the same job, on one page.

It is the reference for what is right, and the baseline for what is fast.
"""

import torch
from tqdm import tqdm

from litpool.data.batches import TrainOrder
from litpool.loops.divergence import FiniteCheck
from litpool.loops.job import Job, Result
from litpool.loops.optimizer import configure


def fit(job: Job) -> Result:
    """Train, keep the best checkpoint, score it on the test split."""
    network, task, flags, log = job.network, job.task, job.flags, job.log
    loader = job.data.train_dataloader()
    assert isinstance(loader.sampler, TrainOrder)  # not just any Sampler: it has epochs
    batches = len(loader)
    steps = flags.steps(batches)
    half = flags.precision == "16-mixed"  # scale gradients up, or float16 rounds them to 0

    network.to(flags.device).train()
    optimizer, schedule = configure(network, job.recipe, steps, fused=not half)
    scaler = torch.amp.GradScaler(flags.device.type, enabled=half)
    finite = FiniteCheck(job.checkpoints, scaled=half)
    torch.manual_seed(torch.initial_seed())  # from here, dropout draws the same in all loops
    progress = job.start(optimizer, schedule, scaler)  # all zeros, unless the run is resumed
    bar = tqdm(total=steps, initial=progress.step, desc="training", disable=not flags.progress)
    log.start(network, optimizer)

    if progress.due:
        job.validate()
    while not job.is_done(steps):
        loader.sampler.set_epoch(progress.epoch, skip=progress.batch)
        window = torch.zeros((), device=flags.device)  # the mean loss of the step's batches

        for number, batch in enumerate(map(job.to_device, loader), start=progress.batch + 1):
            job.stop_if_interrupted()

            # forward and backward; the gradients of a window add up to those of its mean loss
            log.batch(batch)
            with job.autocast():
                loss = task.loss(network(batch), batch["labels"])
            scaled = loss / flags.accumulate  # like Lightning, in a short last window as well
            scaler.scale(scaled).backward()
            finite.add(loss, batch)
            window += scaled.detach()
            if number % flags.accumulate and number < batches:
                continue

            # clip, take a step, change the learning rate
            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(network.parameters(), flags.clip)
            finite.check(progress.step + 1, grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
            job.advance(number, batches)

            # report
            lr = float(max(schedule.get_last_lr()))
            log.step(progress.step, loss.detach(), window, lr, grad_norm)
            window.zero_()
            bar.update()

            # evaluate, save, stop
            if progress.due:
                job.validate()
            if job.is_done(steps):
                break

    bar.close()
    log.finish()
    return job.finish()
