"""Entity markers: pooling at tokens that were added to the texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.model.pooling import Pooling


class MarkerPooling(Pooling):
    """The state at an added token, or those at several side by side: entity start of arXiv 1906.03158.

    Of a marker that stands in a text more than once, the first counts; one that is missing there gives zeros.

    Args:
        markers: The tokens, such as ["[S1]", "[S2]"]; data.add_special_tokens adds them to the tokenizer.
    """

    ids: Tensor

    def __init__(self, width: int, num_layers: int, markers: list[str]) -> None:
        super().__init__(width, num_layers)
        if not markers or len(set(markers)) < len(markers):
            raise InputError(f"MarkerPooling: markers={markers}; give each once, as in ['[S1]', '[S2]']")
        self.markers = markers
        self.out_features = width * len(markers)
        self.register_buffer("ids", torch.full((len(markers),), -1))  # found by `resolve`, kept in the checkpoint

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        pooler_output: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        if input_ids is None:
            raise InputError("MarkerPooling: it finds its markers by input_ids; hand them to it with the hidden states")
        is_marker = input_ids.unsqueeze(1) == self.ids.unsqueeze(-1)  # (B, M, T)
        is_marker = is_marker & attention_mask.bool().unsqueeze(1)
        first = is_marker.int().argmax(-1)  # (B, M), argmax gives the first of equals
        states = hidden_states[-1][torch.arange(len(first), device=first.device).unsqueeze(1), first]  # (B, M, D)
        return states.masked_fill(~is_marker.any(-1, keepdim=True), 0).flatten(1)  # (B, M * D)


def resolve(pooling: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Tell every MarkerPooling in `pooling` the ids of its markers, and return them all; none where there is none.

    Raises:
        InputError: A marker is none of the tokens that were added to this tokenizer.
    """
    added = tokenizer.get_added_vocab()
    found: dict[str, int] = {}
    for module in pooling.modules():
        if isinstance(module, MarkerPooling):
            if missing := [marker for marker in module.markers if marker not in added]:
                raise InputError(
                    f"MarkerPooling: {missing[0]!r} is no added token of this tokenizer; set data.add_special_tokens "
                    f"to {module.markers}, and mark the texts with them"
                )
            found |= {marker: added[marker] for marker in module.markers}
            module.ids.copy_(torch.tensor([added[marker] for marker in module.markers]))
    return found
