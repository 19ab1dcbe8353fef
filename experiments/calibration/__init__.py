"""The verdict's false-positive rate: how often it calls a perfect method different."""
