"""The variance over seeds, changed at equal training loss: what happens to losses, to barriers and to unlearning."""
