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
    bar = tqdm(total=steps, desc="training", disable=not flags.progress)
    log.start(network, optimizer)
    torch.manual_seed(torch.initial_seed())  # from here, dropout draws the same in all loops

    step = epoch = waited = 0
    stop = False
    while not stop:
        loader.sampler.set_epoch(epoch)
        window = torch.zeros((), device=flags.device)  # the mean loss of the step's batches

        for number, batch in enumerate(map(job.to_device, loader), start=1):
            job.stop_if_interrupted(step)

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
            finite.check(step + 1, grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
            step += 1

            # report
            log.step(step, loss.detach(), window, float(max(schedule.get_last_lr())), grad_norm)
            window.zero_()
            bar.update()

            # evaluate, save, stop
            if flags.due(epoch, number, batches):
                better = job.keep(job.evaluate("validation", step), step)
                waited = 0 if better else waited + 1
            stop = step == steps or (flags.patience is not None and waited >= flags.patience)
            if stop:
                break
        epoch += 1

    bar.close()
    log.finish()
    return job.finish(step)
