"""One loop of a comparison, in its own process.

python -m litpool.tools.compare.child LOOP CONFIG RECORD
"""

import sys

from litpool import app
from litpool.tools.compare import stock
from litpool.tools.compare.recorder import Recorder

COMMANDS = {"plain": "fit_plain", "lightning": "fit", "huggingface": "fit_hf", "stock": "fit_plain"}


def main() -> None:
    """Train, and record every step."""
    loop, config, record = sys.argv[1:]
    function = stock.fit_stock if loop == "stock" else None
    app.main([COMMANDS[loop], "--config", config], Recorder(record), function)


if __name__ == "__main__":
    main()
