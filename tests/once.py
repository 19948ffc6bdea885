"""Fingerprints of the project's code, computed once in a process of tests, for the code stays as it is."""

from functools import cache

from kdcore.matrix.code import Code

_of = cache(Code)


def code(root, described=()):
    """What cards take as `Code`; with descriptions of networks, a new one."""
    return Code(root, described) if described else _of(root)
