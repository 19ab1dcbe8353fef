"""Metrics as their definitions say, word by word and slow: what the fast ones are held against."""

import numpy as np


def literal_epsilon(unlearned, retrained, delta=1e-5):
    """ε of each example, of models `[models, examples]`: thresholds x models, one example at a time."""

    def largest(positive, negative, predict):
        with np.errstate(all="ignore"):
            fnr, fpr = (~predict(positive)).mean(-1), predict(negative).mean(-1)
            bound = np.fmax(np.log(1 - delta - fpr) - np.log(fnr), np.log(1 - delta - fnr) - np.log(fpr))
        bound = np.where((fpr == 0) | (fnr == 0) | np.isnan(bound), 0, np.maximum(bound, 0))
        return np.where((fpr == 0) & (fnr == 0), np.inf, bound).max(initial=0)

    epsilon = []
    for u, r in zip(unlearned.T, retrained.T, strict=True):
        ranges = np.ptp(u), np.ptp(r)
        if max(ranges) > 0 and min(ranges) / max(ranges) < 0.01:
            epsilon.append(50.0)
            continue
        positive, negative = (u, r) if np.median(u) >= np.median(r) else (r, u)
        low, high = min(u.min(), r.min()), max(u.max(), r.max())
        t = np.linspace(low, high, int(np.ceil(100 * (high - low))))
        single = largest(positive, negative, lambda phi, t=t: phi >= t[:, None])
        positive, negative = (positive, negative) if np.ptp(positive) < np.ptp(negative) else (negative, positive)
        w = np.ptp(positive)
        right = np.linspace(positive.max() - 2, positive.max() + 2, 400)
        left = np.stack([np.linspace(edge - w - 2, edge - w + 2, 400) for edge in right])[..., None]
        double = largest(positive, negative, lambda phi, left=left, right=right: (left <= phi) & (phi <= right[:, None, None]))
        epsilon.append(min(50.0, max(single, double)))
    return np.array(epsilon)
