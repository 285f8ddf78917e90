"""Handlers that run outside of the database transaction: what they may ask for, and how they are called and recorded.

intent (Unit's transaction) → call (a thread, or the event loop) → result (a transaction of the desk's)
"""
