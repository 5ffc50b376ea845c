"""The command line of litpool: `python cli.py COMMAND --config configs/NAME.yaml [--key value ...]`."""

import gc
import sys
from collections.abc import Sequence

from litpool import interrupt, toolbox


def overview(commands: dict[str, str]) -> str:
    """The help of the whole, without the slow imports that a command needs."""
    lines = [f"  {name:<10}{text}" for name, text in commands.items()]
    return "\n".join([__doc__ or "", "commands (COMMAND --help lists the options):", *lines])


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command, and leave with its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = toolbox.commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(commands))
    elif arguments[0] not in commands:
        print(
            f"error: {arguments[0]!r} is no command; there are {', '.join(commands)}",
            file=sys.stderr,
        )
        sys.exit(2)
    else:
        with interrupt.exit_status():
            gc.disable()  # imports leave next to no garbage, and looking for it takes a tenth of their time
            from litpool import app

            gc.enable()
            app.main(arguments)


if __name__ == "__main__":
    main()
