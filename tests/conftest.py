"""Fixtures by subject, one file each below `fixtures/`."""

pytest_plugins = [
    "tests.fixtures.fix_examples",
    "tests.fixtures.fix_hypothesis",
    "tests.fixtures.fix_stack",
    "tests.fixtures.fix_system",
    "tests.fixtures.fix_log",
    "tests.fixtures.fix_relay",
    "tests.fixtures.fix_workers",
]
