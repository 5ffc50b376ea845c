"""Tools: commands to run, with code that nobody needs to read.

Delete this folder, or any one folder in it, and everything else still works. A tool is a folder.
Its name is its command, and the first line of its `__init__.py` is the command's help. Its module
`command` has a function of that name, which accepts a `litpool.commands.Run` as `run` and the
command's options. A function without `run` is a command that needs no job: it has no other options,
and those without a default are positional. A tool may have more commands: a module `command_NAME`,
whose first line is the help, has the function NAME.
"""
