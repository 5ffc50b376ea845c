"""Entity markers: pooling at tokens that were added to the texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.model.pooling import Pooling


class MarkerPooling(Pooling):
    """The state at an added token, or the states at several: entity start (arXiv 1906.03158).

    If a marker occurs more than once in a text, the first one counts. A missing marker gives
    zeros. The output is (B, M * D) for M markers.

    Args:
        markers: The tokens, such as ["[S1]", "[S2]"]. Set data.add_special_tokens to the same
            list, so that the tokenizer has them.

    Raises:
        InputError: `markers` is empty or names one twice; in `forward`, there are no input_ids.
    """

    ids: Tensor

    def __init__(self, hidden_size: int, num_layers: int, markers: list[str]) -> None:
        super().__init__(hidden_size, num_layers)
        if not markers or len(set(markers)) < len(markers):
            raise InputError(
                f"MarkerPooling: markers={markers}; give one or more, each once, "
                "as in ['[S1]', '[S2]']"
            )
        self.markers = markers
        self.out_features = hidden_size * len(markers)
        # `resolve` sets the ids. A buffer is saved in the checkpoint.
        self.register_buffer("ids", torch.full((len(markers),), -1))

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        pooler_output: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        if input_ids is None:
            raise InputError(
                "MarkerPooling: needs input_ids to find its markers; "
                "pass them along with the hidden states"
            )
        is_marker = input_ids.unsqueeze(1) == self.ids.unsqueeze(-1)  # (B, M, T)
        is_marker = is_marker & attention_mask.bool().unsqueeze(1)
        first = is_marker.int().argmax(-1)  # (B, M), argmax takes the first of equals
        rows = torch.arange(first.shape[0], device=first.device).unsqueeze(1)  # (B, 1)
        states = hidden_states[-1][rows, first]  # (B, M, D)
        return states.masked_fill(~is_marker.any(-1, keepdim=True), 0).flatten(1)

    def extra_repr(self) -> str:
        return f"at {' '.join(self.markers)}"


def resolve(pooling: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Set the ids of every MarkerPooling in `pooling`, itself included.

    Returns:
        The id of each marker, if there are any.

    Raises:
        InputError: A marker was not added to this tokenizer.
    """
    added = tokenizer.get_added_vocab()
    ids: dict[str, int] = {}
    for module in pooling.modules():
        if not isinstance(module, MarkerPooling):
            continue
        missing = [marker for marker in module.markers if marker not in added]
        if missing:
            raise InputError(
                f"MarkerPooling: {missing[0]!r} is not an added token of this tokenizer; "
                f"set data.add_special_tokens to {module.markers}, and mark the texts with them"
            )
        ids |= {marker: added[marker] for marker in module.markers}
        module.ids.copy_(torch.tensor([added[marker] for marker in module.markers]))
    return ids
