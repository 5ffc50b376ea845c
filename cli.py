"""The command line of litpool: `python cli.py COMMAND --config configs/NAME.yaml [--key value ...]`."""

import gc
import sys

from litpool import COMMANDS, interrupt


def overview() -> str:
    """The help of the whole, without the slow imports that a command needs."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([__doc__ or "", "commands (COMMAND --help lists the options):", *lines])


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(overview())
    elif sys.argv[1] not in COMMANDS:
        print(f"error: {sys.argv[1]!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        with interrupt.exit_status():
            gc.disable()  # imports leave next to no garbage, and looking for it takes a tenth of their time
            from litpool.app import main

            gc.enable()
            main()
