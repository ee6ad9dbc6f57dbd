"""CelebA: its files, the numbers of its pictures, its two lists, and the data set."""
