"""`python -m mil_tutorial`: the same as the command `mil-tutorial`."""

from mil_tutorial.commands.main import program

if __name__ == "__main__":
    program()
