"""Does the order of the methods carry over to clean labels, other networks and other data?"""
