"""The conformance kit: sends a running participant what an orchestrator might, in every order, and judges its answers.

`subject` is the service to be tried, `talk` what is said to it and heard of it, `cases` what is tried, `kit` the run;
`kafka` is the door. It sees Kafka alone, and the effects where its user says how to count them: docs/guides/wire.md.
"""
