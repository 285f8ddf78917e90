"""Schemas of a real registry, Apicurio: registered by hand, read by id, away and back."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.compose.local.service import Home
from kompensate.compose.local.stack import Stack
from kompensate.compose.local.state import load
from kompensate.schemas.avro import AvroPayloads
from kompensate.schemas.payloads import PayloadUnavailable
from kompensate.schemas.registry import Registry, RegistryRefused
from tests.fixtures.apicurio import Apicurio, api
from tests.fixtures.fix_stack import _reset_if_we_die
from tests.unit.test_avro_payloads import CHARGE, VALUE, Charge
from tests.unit.test_registry import NEWER, written

pytestmark = [pytest.mark.slow, pytest.mark.stack]

SUBJECT = "shop.Charge"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("registry")
    with _reset_if_we_die(directory):
        made = Stack(directory, servers=[Apicurio()])
        made.up(["apicurio"])
        yield made
        made.reset()


@pytest.fixture
def url(stack: Stack) -> str:
    state = load(stack.folder)
    assert state is not None
    return api(Home(stack.folder, state.ports, ""))


def only_backward(url: str) -> None:
    """Have the registry refuse what could not read what the last one wrote."""
    body = json.dumps({"compatibility": "BACKWARD"}).encode()
    request = urllib.request.Request(
        f"{url}/config/{SUBJECT}", body, {"content-type": "application/json"}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=20).close()


def test_a_writer_may_be_newer_than_its_reader(stack: Stack, url: str, tmp_path: Path) -> None:
    """The reader has the file of the first version alone; it reads what a later one wrote, by the registry's word. What
    breaks an earlier version the registry refuses, and where it is away what it would have to tell waits."""
    registry = Registry(url, timeout=20)
    first = registry.register(SUBJECT, CHARGE)
    only_backward(url)
    folder = tmp_path / "Charge"
    folder.mkdir()
    (folder / f"{first}.avsc").write_text(json.dumps(CHARGE))
    assert registry.id_of(SUBJECT, CHARGE) == first

    second = registry.register(SUBJECT, NEWER)
    payloads = AvroPayloads(tmp_path, [Charge], registry=registry)
    own = payloads.encode(VALUE)
    assert own is not None
    assert int.from_bytes(own[1:5], "big") == first
    assert payloads.decode(written(NEWER, second, tip=5), Charge) == VALUE

    breaking = {**CHARGE, "fields": [*CHARGE["fields"], {"name": "needed", "type": "long"}]}
    with pytest.raises(RegistryRefused, match="409"):
        registry.register(SUBJECT, breaking)

    stack.down(["apicurio"])
    assert payloads.decode(written(NEWER, second, tip=5), Charge) == VALUE, "it is remembered"
    restarted = AvroPayloads(tmp_path, [Charge], registry=Registry(url))
    assert restarted.decode(own, Charge) == VALUE
    with pytest.raises(PayloadUnavailable, match=f"expected the Avro schema of id {second}"):
        restarted.decode(written(NEWER, second, tip=5), Charge)
