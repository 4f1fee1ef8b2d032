"""The documentation site: what GitHub shows, and pages made from the code, as one site that is built and checked strictly."""
