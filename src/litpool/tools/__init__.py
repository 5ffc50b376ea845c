"""Tools that people run and need not read. Delete this folder, or any one in it: everything else still works.

A tool is a folder. Its name is its command, the first line of its `__init__.py` is the command's help, and its module
`command` has the function of that name, which takes a `litpool.commands.Run` and the command's options.
"""
