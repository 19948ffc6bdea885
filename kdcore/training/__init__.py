"""From a card to a trained network: the loop, its optimisers, the teacher's outputs, and the state to resume from."""
