"""The fault campaign of tests/campaign.py, half a minute of it; `CAMPAIGN_MINUTES=2` makes it longer."""

import os

from campaign import BAD, campaign, table

MINUTES = float(os.environ.get("CAMPAIGN_MINUTES", "0.5"))


def test_no_fault_loses_or_changes_a_result():
    counted = campaign(["signal", "truncate", "limit", "kill", "flip", "concurrent"], MINUTES, seed=0)
    assert counted["signal"]["rounds"]
    assert not any(counts[name] for counts in counted.values() for name in BAD), table(counted)
