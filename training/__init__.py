"""Command-line training; `commands.py` lists the commands."""
