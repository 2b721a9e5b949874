"""Config files and the command line, from words to objects; `vitdet.cli` has the verbs.

Read in this order: `layers`, `keys`, `mistakes`, `run`, `ending`.
"""
