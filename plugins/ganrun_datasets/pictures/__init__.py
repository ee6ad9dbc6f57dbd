"""Picture files: found in a folder or a zip, decoded once into a memory map, and served from there as splits."""
