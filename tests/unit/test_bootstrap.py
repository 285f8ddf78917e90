"""Where Kafka is has to be said: whoever connects refuses at once what is no address."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.cli import main
from kompensate.orchestrator.client import Client
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.participants.main import Service
from tests.fixtures.participants import stock

MAKERS: dict[str, Callable[[str], object]] = {
    "service": lambda bootstrap: Service(stock, "sqlite://", bootstrap),
    "relay": lambda bootstrap: RelayService(RelaySettings("sqlite:///shop.db", bootstrap)),
    "client": lambda bootstrap: Client(bootstrap, "shop"),
    "async client": lambda bootstrap: AsyncClient(bootstrap, "shop"),
}


@pytest.mark.parametrize("given", [None, "", " "])
@pytest.mark.parametrize("maker", MAKERS)
def test_no_address_is_refused(maker: str, given: str) -> None:
    """An environment variable that is not set: the error names what to give, and nobody waits for a broker."""
    with pytest.raises(ValueError, match=r"^bootstrap: expected Kafka's addresses, .*, got ") as raised:
        MAKERS[maker](given)

    assert str(raised.value).endswith(f"got {given!r}")


def test_a_command_says_it_as_wrong_usage() -> None:
    """`--bootstrap "$UNSET"`."""
    done = CliRunner().invoke(main, ["show", "o-1", "--app-name", "shop", "--bootstrap", ""])

    assert (done.exit_code, "expected Kafka's addresses" in done.output) == (2, True), done.output
