"""The transactional outbox and inbox in a service's own database, and the relay that carries rows to Kafka."""
