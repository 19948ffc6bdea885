"""What students have of their teacher beyond one accuracy: logits, features, classes, regions, cost."""
