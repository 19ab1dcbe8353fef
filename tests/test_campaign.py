"""The fault campaign of tests/campaign.py, one round of two kinds; `CAMPAIGN_MINUTES=20` runs all kinds for as long."""

import os

from campaign import BAD, KINDS, campaign, mountable, table

MINUTES = os.environ.get("CAMPAIGN_MINUTES")


def test_no_fault_loses_or_changes_a_result():
    if MINUTES is None:
        counted = campaign(["signal", "limit"], minutes=5, seed=0, most=1)
    else:
        counted = campaign([kind for kind in KINDS if kind != "disk" or mountable()], float(MINUTES), seed=0)
    assert sum(counts["hit"] for counts in counted.values()) > 0, "nothing was disturbed"
    assert not any(counts[name] for counts in counted.values() for name in BAD), table(counted)
