"""An export in Python: `litpool.load(FOLDER)` answers through the format's own runtime."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from litpool import InputError
from litpool.classes import build_classes
from litpool.model.pooling import Pooling
from litpool.predictor import Predictor
from litpool.tasks.regression import Regression
from litpool.tasks.task import Task
from litpool.tools.export import golden as golden_file
from litpool.tools.export import tokens
from litpool.tools.export.golden import Golden
from litpool.tools.export.runtimes import check_installed, check_trust, module_of


def load(folder: Path, trusted: Sequence[str] = ()) -> Predictor:
    """Return a model that answers with an export, on the CPU.

    Args:
        folder: The export.
        trusted: The modules whose classes it may name; `torch.export` to run a program.

    Raises:
        InputError: The folder is not an export of this version, it cannot be loaded, or the
            package that runs it is not installed.
    """
    golden = golden_file.read(folder)
    check_trust(folder, golden, trusted)
    try:
        task, pooling_class = build_classes(golden["job"], trusted)
        task.load_state_dict(golden["state"])
        pooling = pooling_class(*golden["shape"])
        function = module_of(golden["format"]).network(folder, golden, trusted)
        tokenizer = _tokenizer(folder, golden)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything in any library
        check_installed(folder, error)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{folder}: cannot be loaded ({reason}); `verify {folder}` says more"
        ) from error
    network: Any = ExportedNetwork(function, pooling, task, golden)
    return Predictor(task, network, tokenizer, golden["job"], {}, folder, torch.device("cpu"))


class ExportedNetwork(nn.Module):
    """An export in place of a TextModel.

    Args:
        function: From a batch of texts to the export's output.
        pooling: The pooling; its weights are in the export, not here.
        task: The task.
        golden: The export's golden.json.
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, Tensor]], Tensor],
        pooling: Pooling,
        task: Task,
        golden: Golden,
    ) -> None:
        super().__init__()
        self.function = function
        self.pooling = pooling
        self.task = task
        self.output = golden["output"]
        self.head = task.head(pooling.out_features) if self.output == "vectors" else nn.Identity()
        if any(True for _ in self.head.parameters()):
            self.head = _NoClassifier()

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return pooled vectors, (B, F) or (B, K, F)."""
        if self.output != "vectors":
            raise InputError(
                f"this export gives {self.output} and no vectors; load the checkpoint for vectors"
            )
        shape = batch["input_ids"].shape[:-1]  # (B,) or (B, K)
        names = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
        texts = {name: batch[name].flatten(0, -2) for name in names if name in batch}
        return self.function(texts).unflatten(0, shape)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.output == "vectors":
            return self.head(self.embed(batch))
        output = self.function(batch)
        if isinstance(self.task, Regression):
            return (output - self.task.shift) / self.task.scale
        if self.output == "spans":  # a stock model has logits for every token
            possible = batch["attention_mask"].bool() & ~batch["special_tokens_mask"].bool()
            possible[:, 0] = True
            lowest = torch.finfo(output.dtype).min
            return output.masked_fill(~possible.unsqueeze(-1), lowest)
        return output


class _NoClassifier(nn.Module):
    """In place of the classifier of pairs that a bi-encoder was trained with."""

    def forward(self, pairs: Tensor) -> Tensor:
        raise InputError(
            "the classifier of pairs is not in an export; use encode, or load the checkpoint"
        )


def _tokenizer(folder: Path, golden: Golden) -> PreTrainedTokenizerBase:
    """Return the tokenizer, which beside a graph is tokenizer.json alone."""
    if golden["format"] not in ("onnx", "torch"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    backend = Tokenizer.from_file(str(folder / tokens.FILE))
    padding: Any = backend.padding  # `export` has set both
    truncation: Any = backend.truncation
    special = [backend.id_to_token(number) for number in golden["added_special_ids"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=padding["pad_token"],
        padding_side=padding["direction"],
        truncation_side=truncation["direction"],
        extra_special_tokens=special,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
