"""Run litpool: `python cli.py COMMAND --config configs/NAME.yaml [--key value ...]`."""

import gc
import sys
from collections.abc import Sequence

from litpool import InputError, disk, interrupt, program
from litpool.command_line import help, spelling, toolbox


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status; without a command, list them all."""
    with disk.complete_output():
        _run(list(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> None:
    commands = toolbox.commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        usage = str(__doc__).replace("python cli.py", program())
        print(f"{usage}\n\ncommands (COMMAND --help lists the options):")
        for name, summary in commands.items():
            print(f"  {name:<12}{summary}")
    elif arguments[0] not in commands:
        names = ", ".join(commands)
        print(f"error: unknown command {arguments[0]!r}; choose from {names}", file=sys.stderr)
        sys.exit(2)
    elif {"-h", "--help", "--help-all"}.intersection(arguments):
        help.show(arguments[0], arguments[1:])
    else:
        try:
            spelling.check(arguments[0], arguments[1:])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        with interrupt.exit_status():
            # Imports create almost no garbage, but collecting it takes a tenth of their time.
            gc.disable()
            from litpool import app

            gc.enable()
            app.main(arguments)


if __name__ == "__main__":
    main()
