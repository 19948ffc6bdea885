"""Data sets: one file per set with a `fetch`; stored once, augmented in batches."""
