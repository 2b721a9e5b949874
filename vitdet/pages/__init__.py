"""Pages of HTML in a single file, which need no network and fit a telephone: their style, parts and charts."""
