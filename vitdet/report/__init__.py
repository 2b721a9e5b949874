"""The report of a run: a page that says how good a model is, where it fails, and how it was trained."""
