"""Students outside the project: export in one file, with a model card, and prediction of image files."""
