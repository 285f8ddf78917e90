"""Asking sagas for something: requests are made and checked, and their order kept, and brought to Kafka (`sender`).

What became of them is read in `kompensate.orchestrator.reading`.
"""
