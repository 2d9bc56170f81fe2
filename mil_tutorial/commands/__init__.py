"""The program `mil-tutorial`: one file a command, with its options beside its code.

What walks a folder, prints or takes flags is here.

`main` reads the command line. `common`, `engine`, `record` and `report` serve several commands.
"""
