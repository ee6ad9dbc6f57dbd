"""Pictures of two kinds: a source and an image for each record."""
