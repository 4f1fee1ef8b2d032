"""Speed of attack costs against PyTorch: see `__main__.py`."""
