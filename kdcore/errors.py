"""Errors that are for people."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, what is allowed and what to do.

    Stage scripts print it without a traceback and exit with code 2.
    """
