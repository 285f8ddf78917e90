"""Requests from existing topics: what becomes of a source's record, and the loop that carries it out, on ports."""
