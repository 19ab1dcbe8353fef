"""How each metric can be gamed, by answers that are plainly wrong."""
