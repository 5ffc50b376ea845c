"""FSDP on a CPU: Lightning insists on a GPU, but PyTorch shards and gathers with gloo as well."""

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, fsdp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.api import FullOptimStateDictConfig, FullStateDictConfig


class CpuFSDP(FSDPStrategy):
    """FSDPStrategy without what needs a GPU."""

    def __init__(self) -> None:
        super().__init__(state_dict_type="full", process_group_backend="gloo")

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def gather(module: nn.Module, world_size: int, rank0_only: bool = True) -> Any:
    """Like Lightning's, but moves nothing to the CPU: PyTorch 2.13 crashes if it is there."""
    options = {"offload_to_cpu": False, "rank0_only": rank0_only}
    return FullyShardedDataParallel.state_dict_type(
        module,
        StateDictType.FULL_STATE_DICT,
        FullStateDictConfig(**options),
        FullOptimStateDictConfig(**options),
    )


fsdp._get_full_state_dict_context = gather
