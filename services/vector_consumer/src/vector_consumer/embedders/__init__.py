"""The embedders that can be chosen: one module each, imported only where it is."""
