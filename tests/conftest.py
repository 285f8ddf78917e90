"""Fixtures by subject, one file each below `fixtures/`."""

import signal

# A shell that runs the tests in the background has them ignore these, and every process that they start and interrupt.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

pytest_plugins = [
    "tests.fixtures.fix_examples",
    "tests.fixtures.fix_ground",
    "tests.fixtures.fix_hypothesis",
    "tests.fixtures.fix_stack",
    "tests.fixtures.fix_system",
    "tests.fixtures.fix_log",
    "tests.fixtures.fix_mariadb",
    "tests.fixtures.fix_participants",
    "tests.fixtures.fix_relay",
    "tests.fixtures.fix_shell",
    "tests.fixtures.fix_workers",
]
