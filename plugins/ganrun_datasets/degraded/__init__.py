"""What degradations leave of the images of another data set."""
