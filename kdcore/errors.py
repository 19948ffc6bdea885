"""Errors that are for people: stage scripts print them without a traceback."""


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, what is allowed and what to do. Exit code 2."""


class RunError(Exception):
    """A run that failed on its own: says which, when, and what to try. Exit code 1."""
