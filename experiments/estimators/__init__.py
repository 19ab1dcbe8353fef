"""Every estimator of influence against exact leave-one-out: agreement, cost, screening."""
