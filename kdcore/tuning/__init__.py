"""Choose hyper-parameters by validation images: Optuna proposes trials, a sweep's workers train them."""
