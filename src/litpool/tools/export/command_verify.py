"""Test an export folder, or a server, against golden.json, and name what is wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path

from litpool import InputError
from litpool.tools.export import golden as golden_file
from litpool.tools.export.certificate import verify_folder
from litpool.tools.export.runtimes import check_trust
from litpool.tools.export.server import verify_server


def verify(target: str, golden: str | None = None, trust: Sequence[str] = ()) -> int:
    """Test an export folder, or a server, against golden.json, and name what is wrong.

    The exit status is 1 if something is wrong.

    Args:
        target: A folder that `export` wrote, or the URL of a server: its root, or the path of
            OpenAI's /v1/embeddings, or of /embed or /predict of text-embeddings-inference.
        golden: For a URL, the folder of the export that it serves.
        trust: A module of your own that the export names; `torch.export` for an export of that
            format, because loading it can run code.
    """
    if target.startswith(("http://", "https://")):
        if golden is None:
            raise InputError(f"{target}: name the export that it serves, with --golden FOLDER")
        problems, summary = verify_server(target, Path(golden))
    elif golden is not None:
        raise InputError(f"golden={golden}: only for a URL; a folder has its own golden.json")
    elif not Path(target).is_dir():
        raise InputError(f"{target}: no such folder; name a folder that `export` wrote, or a URL")
    else:
        check_trust(Path(target), golden_file.read(Path(target)), trust)
        problems, summary = verify_folder(Path(target), trust)
    for problem in problems:
        print(f"wrong       {problem}", file=sys.stderr)
    if not problems:
        print(f"verified    {summary}")
    return int(bool(problems))
