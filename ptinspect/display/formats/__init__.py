"""The output formats of `show`: summary, table, tree, JSON and Markdown."""
