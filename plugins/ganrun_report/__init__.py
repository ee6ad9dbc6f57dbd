"""Compare: runs side by side, in a table and in a page that can be mailed."""
