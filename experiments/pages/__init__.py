"""Pages of experiments: tables and figures as plain data, drawn as HTML, Markdown and CSV."""
