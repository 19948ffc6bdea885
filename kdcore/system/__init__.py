"""What the machine asks of every program: files, errors, signals. Nothing here changes a number."""
