"""Knowledge distillation: methods, networks, data, training, evaluation and tables."""
