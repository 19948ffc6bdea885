"""The matrix in parallel: DVC says what is stale, Dask brings it to workers, and DVC records what they made."""

FOLDER = "scratch/sweep"
"""What a sweep keeps of itself: its lock, its journal, a log per stage."""
