"""Downloads: files, archives, and the published data sets that consist of them."""
