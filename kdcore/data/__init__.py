"""Data sets: one file per set with a `fetch`; stored once as arrays, augmented in batches."""
