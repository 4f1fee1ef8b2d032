"""The paper's tables and figures: one small file for each, all over one protocol."""
