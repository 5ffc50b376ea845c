"""TextModel: encoder, pooling and task head in one plain module that knows no trainer."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from litpool.model.encoder import MODEL_INPUTS, Encoder, EncoderOptions
from litpool.model.markers import resolve
from litpool.model.pooling import Pooling
from litpool.tasks.task import Task

TOKEN_INPUTS = (*MODEL_INPUTS, "special_tokens_mask")


class TextModel(nn.Module):
    """From token ids to the task's output.

    Args:
        task: The task, with its label names; it provides the head.
        pooling: Called with the encoder's hidden size and its number of layers.
        options: Which encoder to use, and how to initialize it.
        config: The encoder's config.
        pretrained: Whether to load the encoder's weights; false if a checkpoint's will follow.
        vocab_size: Number of ids in the tokenizer.
        attention: transformers' attention, `sdpa` or `eager`.
        new_ids: Ids of added tokens, with the ids of the pieces they were split into before.
    """

    def __init__(
        self,
        task: Task,
        pooling: Callable[[int, int], Pooling],
        options: EncoderOptions,
        config: PretrainedConfig,
        pretrained: bool,
        vocab_size: int = 0,
        attention: str = "sdpa",
        new_ids: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.on_tokens = task.on_tokens
        self.pooling = pooling(config.hidden_size, config.num_hidden_layers)
        self.head = task.head(self.pooling.out_features)
        self.encoder = Encoder(
            options,
            config,
            pretrained,
            pooler=self.pooling.needs_pooler_output,
            all_layers=self.pooling.needs_hidden_states,
            vocab_size=vocab_size,
            attention=attention,
            new_ids=new_ids,
        )

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return pooled vectors (B, F), or (B, K, F) if a row has K texts, encoded separately."""
        shape = batch["input_ids"].shape[:-1]  # (B,) or (B, K)
        # each (B * K, T)
        texts = {key: batch[key].flatten(0, -2) for key in TOKEN_INPUTS if key in batch}
        hidden_states, pooler_output = self.encoder(texts)  # each (B * K, T, D)
        pooled = self.pooling(
            hidden_states,
            texts["attention_mask"],
            texts.get("special_tokens_mask"),
            pooler_output,
            texts["input_ids"],
        )  # (B * K, F)
        return pooled.unflatten(0, shape)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the task's output, such as logits (B, C) for classification."""
        if not self.on_tokens:
            return self.head(self.embed(batch))
        hidden_states, _ = self.encoder(batch)
        return self.head(hidden_states[-1], batch)  # from (B, T, D)


def build_network(
    task: Task,
    pooling: Callable[[int, int], Pooling],
    options: EncoderOptions,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    new_ids: Mapping[int, Sequence[int]],
    device: torch.device,
    pretrained: bool,
) -> TextModel:
    """Return the network for a tokenizer and a device; the other arguments are TextModel's.

    Every id of the tokenizer has an embedding, and markers of the pooling have their ids.
    """
    network = TextModel(
        task,
        pooling,
        options,
        config,
        pretrained=pretrained,
        vocab_size=len(tokenizer),
        # On CPU, sdpa is slow with attention dropout.
        attention="eager" if device.type == "cpu" else "sdpa",
        new_ids=new_ids,
    )
    resolve(network.pooling, tokenizer)
    return network
