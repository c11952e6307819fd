"""Build the reference of the documentation site from the code. `mkdocs.yml` loads `hooks.py`; the other modules are its pages."""
