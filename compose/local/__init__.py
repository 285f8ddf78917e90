"""Kafka, Kafka Connect with Debezium and PostgreSQL on this machine, without Docker."""
