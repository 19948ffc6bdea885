"""params.yaml as a typed matrix of experiments: cells, recipes, and the card that determines each of them."""
