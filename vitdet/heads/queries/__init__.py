"""Where the queries of a decoder come from, and how they look at the image."""
