"""How the queries of a decoder are selected, how denoising queries are made, and how queries attend to the image."""
