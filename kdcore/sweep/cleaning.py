"""Clean scratch/: remove states, live files, logs, downloads, teachers' tables, probes and compiled code.

All of them only save time.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from kdcore.fetch import download
from kdcore.sweep import journal
from kdcore.training import compiler, pulse, teacher_cache
from kdcore.training.state import saved_states

PROBES = Path("scratch/probes")
"""Where stage transfer keeps what it has measured (`kdcore.results.transfer`, which imports torch)."""


def clean() -> Iterator[str]:
    """Remove all of it, except what running cells, sweeps and downloads need.

    Yields:
        Lines that say what was removed, and what was kept and why.
    """
    states = [(state, state.size) for state in saved_states()]
    removed = [state.path for state, _ in states if state.discard()]
    running = [state.name for state, _ in states if state.path not in removed]
    kept = f"; kept, for they train now: {', '.join(running)}" if running else ""
    yield f"states: {_shown(sum(size for state, size in states if state.path in removed))}{kept}"
    yield f"live files: {_shown(_remove(path for path in pulse.LIVE.glob('*') if not _is_of(path, running)))}"
    if journal.is_running():
        yield "logs: kept, for a sweep is at work"
    else:
        yield f"logs: {_shown(_remove([journal.LOGS]))}"
    yield from _clean_downloads()
    if running:
        yield "teachers' tables, compiled code: kept, for cells train now"
    else:
        yield f"teachers' tables: {_shown(_remove_tables())}"
        yield f"probes: {_shown(_remove(path for path in [PROBES] if path.is_dir()))}"
        yield f"compiled code: {_shown(_remove(path for path in [compiler.FOLDER] if path.is_dir()))}"


def _is_of(live: Path, names: list[str]) -> bool:
    """Say whether a live file, or the temporary file that will replace it, is of a run with one of these names."""
    return live.name.lstrip(".").startswith(tuple(f"{name}." for name in names))


def _clean_downloads() -> Iterator[str]:
    size, kept = 0, []
    extracted = [path for path in download.FOLDER.glob("tmp*") if path.is_dir()]  # before it is asked who is at work
    if not _is_fetching():
        size += _remove(extracted)
    elif extracted:
        kept.append("what a stage extracted")
    for lock in sorted(download.FOLDER.glob("*.lock")):
        try:
            with FileLock(lock, timeout=0):
                size += _remove(lock.parent.glob(f"{lock.stem}*"))
        except Timeout:
            kept.append(lock.stem)
    yield f"downloads: {_shown(size)}" + (f"; kept, for they go on now: {', '.join(kept)}" if kept else "")


def _is_fetching() -> bool:
    """Say whether a stage that extracts archives may be at work in this folder; it holds no lock on them."""
    running = (process.info for process in psutil.process_iter(["cmdline", "cwd"]))
    here = (str(Path.cwd()), None)  # None where the system does not say
    return journal.is_running() or any(
        {"stages.data", "stages.robustness"} & {*(info["cmdline"] or ())} and info["cwd"] in here for info in running
    )


def _remove_tables() -> int:
    folder = teacher_cache.CACHE
    if not folder.is_dir():
        return 0
    with FileLock(folder / "lock"):
        return _remove(teacher_cache.tables(folder))


def _remove(paths: Iterable[Path]) -> int:
    """Remove files and folders; returns the bytes that they took on the disk."""
    freed = 0
    for path in list(paths):
        freed += sum(file.stat().st_blocks * 512 for file in (path, *path.rglob("*")) if file.is_file())
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return freed


def _shown(size: int) -> str:
    return f"{size / 1e6:.1f} MB removed"
