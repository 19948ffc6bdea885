"""Data sets: one file per set with a `fetch`; stored once, augmented in batches."""

MANIFEST = "manifest.json"
"""The file in the folder of a data set that holds the checksums of the others."""
