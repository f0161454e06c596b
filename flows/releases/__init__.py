"""Promoted versions as git refs, here and on the git remote."""
