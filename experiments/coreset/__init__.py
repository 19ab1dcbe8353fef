"""How much of the forget set a method needs: shown a random or the most exposed part of F, how much of all of F is left?"""
