"""The wire: what Kompensate writes to Kafka and reads from it, as other languages and other tools see it.

`messages` are commands, replies and requests with their headers; `topics` names and places them;
`codec` is the Avro of the state topic; the `.avsc` files beside them are the published schemas.
"""
