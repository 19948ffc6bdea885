"""What networks are worth on corrupted test images: measured by stage robustness, shown by stage tables."""
