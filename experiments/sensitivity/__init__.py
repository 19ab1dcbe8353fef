"""How much each method depends on its hyperparameters: forgetting against utility."""
