"""The hook: sagas that are held or have failed, and records that no saga took, are told to somebody.

A process of its own beside the workers, with a consumer group of its own: what it tells comes from the topics, so
nothing that hangs or fails out there holds up a saga, and a restart goes on where it was. It reads with the intake's
loop, so offsets move only past what has been told.
"""
