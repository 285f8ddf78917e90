"""The ACLs of a Kafka cluster, beside what an application needs: which are missing, and which go further."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, cast

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not re-exported for checkers
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from kompensate.orchestrator.kafka.admin import asking
from kompensate.orchestrator.kafka.options import CALL_SECONDS, Options, admin_options
from kompensate.orchestrator.rights import Grant
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.refusals import Refusals

ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Differences:
    """How a cluster differs from a plan: what is not granted, and who may do more to the same resources."""

    missing: tuple[str, ...]
    further: tuple[str, ...]


class _Allowed(NamedTuple):
    """One ACL, in the names of confluent_kafka's enumerations."""

    principal: str
    operation: str
    kind: str
    name: str
    pattern: str
    host: str

    def __str__(self) -> str:
        star = "*" if self.pattern == "PREFIXED" else ""
        where = "" if self.host == ANYWHERE else f" from {self.host}"
        kind = self.kind.lower().replace("_", "-")
        return f"{self.principal}{where}: {self.operation.lower()} on {kind} {self.name}{star}"


class AclAdmin:
    """Reads and makes ACLs. Raises Fatal where the cluster has no authorizer or refuses, NoAnswer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refusals = Refusals()
        options: Options = {**admin_options(settings), "error_cb": self._refusals}
        self._admin = AdminClient(options)

    def check(self, grants: Sequence[Grant]) -> Differences:
        """What is missing of `grants`, and what else is allowed on the resources that they name.

        Prefixed and wildcard ACLs that cover such a resource count as further ones. Denials are not looked at.
        """
        wanted, found = _allowed(grants), self._found(grants)
        return Differences(tuple(map(str, sorted(wanted - found))), tuple(map(str, sorted(found - wanted))))

    def apply(self, grants: Sequence[Grant]) -> list[str]:
        """Make what is missing; what was made, in words. Nothing is taken away."""
        made = sorted(_allowed(grants) - self._found(grants))
        with self._asking():
            asked = (
                self._admin.create_acls([_binding(one) for one in made], request_timeout=CALL_SECONDS) if made else {}
            )
            for future in asked.values():
                future.result(CALL_SECONDS)
        return [f"{one}: made" for one in made]

    def _found(self, grants: Sequence[Grant]) -> set[_Allowed]:
        found: set[_Allowed] = set()
        for kind, name in sorted({(_kind(grant), grant.name) for grant in grants}):
            asked = AclBindingFilter(
                ResourceType[kind],
                name,
                ResourcePatternType.MATCH,
                None,  # type: ignore[arg-type]  # any principal
                None,  # type: ignore[arg-type]  # any host
                AclOperation.ANY,
                AclPermissionType.ALLOW,
            )
            with self._asking():
                bindings = self._admin.describe_acls(asked, request_timeout=CALL_SECONDS).result(CALL_SECONDS)
            found.update(map(_read, bindings))
        return found

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self._settings, self._admin, self._refusals)


def _kind(grant: Grant) -> str:
    return grant.kind.upper().replace("-", "_")


def _allowed(grants: Iterable[Grant]) -> set[_Allowed]:
    return {
        _Allowed(grant.principal, _upper(operation), _kind(grant), grant.name, grant.pattern.upper(), ANYWHERE)
        for grant in grants
        for operation in grant.operations
    }


def _upper(operation: str) -> str:
    """DescribeConfigs, as Kafka writes it, is DESCRIBE_CONFIGS there."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", operation).upper()


def _binding(one: _Allowed) -> AclBinding:
    return AclBinding(
        ResourceType[one.kind],
        one.name,
        ResourcePatternType[one.pattern],
        one.principal,
        one.host,
        AclOperation[one.operation],
        AclPermissionType.ALLOW,
    )


def _read(binding: AclBinding) -> _Allowed:
    kind = cast("ResourceType", binding.restype).name
    operation = cast("AclOperation", binding.operation).name
    pattern = cast("ResourcePatternType", binding.resource_pattern_type).name
    return _Allowed(binding.principal, operation, kind, binding.name, pattern, binding.host)
