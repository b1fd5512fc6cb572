"""The report as files: page, text, tables and images."""
