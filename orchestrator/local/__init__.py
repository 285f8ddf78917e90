"""Local steps: the author's own functions, run by the worker outside its loop.

They are the only place where a saga's code may block, read a clock or fail as it likes: what comes of it is an answer
to the kernel like any other.
"""
