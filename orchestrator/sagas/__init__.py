"""The sagas of one partition: records in, records out; no Kafka, no clock, no threads.

`partition` is the whole, driven by the worker's loop through the Protocol Sagas. In the order of a message's way:
`intake` makes an input of a record, `entry` holds one saga, asleep as bytes or awake, `journal` writes its events
to pages, `batch` gathers what one transaction writes and can take it back, `timers` says what is due, and
`loading` makes all of it anew from the state topic.
"""
