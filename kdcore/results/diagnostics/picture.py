"""A picture of features in two dimensions, by t-SNE."""

import numpy as np

CLASSES, OF_EACH = 7, 20
"""How many classes a picture shows, as many as the page has colours, and how many images of each at most."""
PERPLEXITY = 30.0
SEED = 0
DIGITS = 3


def shown(labels: np.ndarray, classes: int) -> np.ndarray:
    """Choose the images of a picture: the first of some classes that are evenly spaced among all.

    Args:
        labels: (N,), class indices.
        classes: how many classes there are.

    Returns:
        Their positions, class by class.
    """
    chosen = np.unique(np.linspace(0, classes - 1, min(classes, CLASSES)).round().astype(int))
    return np.concatenate([np.flatnonzero(labels == label)[:OF_EACH] for label in chosen])


def embed(features: np.ndarray) -> list[list[float]]:
    """Place images in a square so that those with like features are near each other (van der Maaten and Hinton, JMLR
    2008): the exact t-SNE of scikit-learn, which starts from the principal components.

    Args:
        features: (N, D).

    Returns:
        N points, both coordinates from 0 to 1 with one scale. The same features give the same points on the same kind
        of machine: the seed is fixed, and one thread computes.
    """
    from sklearn.manifold import TSNE  # it takes a second, which most matrices need not wait
    from threadpoolctl import threadpool_limits

    values = np.asarray(features, dtype=np.float64)
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    with threadpool_limits(1):
        made = TSNE(perplexity=perplexity, method="exact", init="pca", random_state=SEED, n_jobs=1)
        points = np.asarray(made.fit_transform(values), dtype=np.float64)
    points -= points.min(axis=0)
    return (points / (points.max() or 1.0)).round(DIGITS).tolist()
