"""Run the matrix in parallel: DVC says which stages are stale, Dask hands them to workers, DVC records the results."""

FOLDER = "scratch/sweep"
"""Folder for the files that a sweep writes about itself: its lock, its journal, and a log per stage."""
