"""Ask git about a repository."""

import subprocess
from pathlib import Path


def git(*arguments: str, folder: Path | None = None) -> str | None:
    """Run a git command and return what it prints.

    Args:
        arguments: of the command, such as "rev-parse", "HEAD".
        folder: where it runs; when absent, the current folder.

    Returns:
        Its standard output; None where it fails, where there is no repository, or no git.
    """
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=folder,
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def code_version(folder: Path | None = None) -> str:
    """The commit of the project's code in a folder, or in the current one, with "+changes" where it differs from it."""
    head = git("rev-parse", "--short=12", "HEAD", folder=folder)
    changed = git("status", "--porcelain", "--", "kdcore", "stages", folder=folder)
    if head is None or changed is None:
        return "not in a git repository"
    return head.strip() + ("+changes" if changed else "")
