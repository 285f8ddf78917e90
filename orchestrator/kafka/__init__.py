"""The door to Kafka: a Log over librdkafka's consumers, transactional producers and admin client.

`log` is the worker's view (kompensate.orchestrator.ports.Log), `producer` one transactional producer, `state`
one state partition during a take-over, `options` what every client is given. None of them decides anything:
the order of a take-over is in kompensate.orchestrator.worker.restore, that of a commit in …transactions.

Numbers like R7 name the rules in docs/reference/transactions.md.
"""
