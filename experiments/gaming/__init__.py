"""What each metric can be made to say by answers that are plainly wrong."""
