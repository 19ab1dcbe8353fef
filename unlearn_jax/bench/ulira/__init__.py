"""Whether an attack can tell, example by example, what was unlearned from what was never seen."""
