"""Which audits of unlearning agree with the truth: attacks and retrain-free scores against the distance from retraining."""
