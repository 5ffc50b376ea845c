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
    """Token ids in, the task's output out.

    Args:
        task: Gives the head and says what it stands on.
        pooling: Called with the encoder's width and its number of layers.
        options: Which encoder, and how it starts.
        config: The encoder's config.
        pretrained: Whether to load the encoder's weights; false when a checkpoint's are to follow.
        vocab_size: Number of ids that the tokenizer knows.
        new_ids: Ids of added tokens, each with the ids of the pieces that the token was split into before.
        attention: The attention code of transformers, `sdpa` or `eager`.
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
        """The pooled vector of each text: (B, F), or (B, K, F) where a row has K texts, each encoded by itself."""
        shape = batch["input_ids"].shape[:-1]  # (B,) or (B, K)
        texts = {
            key: batch[key].flatten(0, -2) for key in TOKEN_INPUTS if key in batch
        }  # each (B * K, T)
        hidden_states, pooler_output = self.encoder(texts)  # each (B * K, T, D)
        mask, special = texts["attention_mask"], texts.get("special_tokens_mask")
        return self.pooling(
            hidden_states, mask, special, pooler_output, texts["input_ids"]
        ).unflatten(0, shape)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The task's output, such as logits (B, C) for classification."""
        if self.on_tokens:
            return self.head(self.encoder(batch)[0][-1], batch)  # from (B, T, D)
        return self.head(self.embed(batch))


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
    """The network for a tokenizer, whose every id has an embedding, and for a device.

    Args:
        task: Knows its labels by now.
        pooling: Called with the encoder's hidden size and its number of layers.
        options: Which encoder, and how it starts.
        config: The encoder's config.
        tokenizer: Markers of the pooling are looked up in it.
        new_ids: Ids of added tokens, each with the ids of the pieces that the token was split into before.
        device: Where the network will run.
        pretrained: Whether to load the encoder's weights; false when a checkpoint's are to follow.
    """
    network = TextModel(
        task,
        pooling,
        options,
        config,
        pretrained=pretrained,
        vocab_size=len(tokenizer),
        attention="eager"
        if device.type == "cpu"
        else "sdpa",  # CPU: sdpa is slow with attention dropout
        new_ids=new_ids,
    )
    resolve(network.pooling, tokenizer)
    return network
