"""Tools: commands to run, with code that nobody needs to read.

Delete this folder, or any one folder in it, and everything else still works. A tool is a folder.
Its name is its command, and the first line of its `__init__.py` is the command's help. Its module
`command` has a function of that name, which accepts a `litpool.commands.Run` and the command's
options.
"""
