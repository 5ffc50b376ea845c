"""`python cli.py COMMAND ...`: the same as `python -m litpool COMMAND ...`."""

from litpool.__main__ import main

if __name__ == "__main__":
    main()
