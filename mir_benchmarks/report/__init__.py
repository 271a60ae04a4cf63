"""Reports of results: tables, figures, worst items, as Markdown, CSV, LaTeX and HTML."""
