"""What users write down: sagas and the application they belong to, and finding them again by name.

`saga` holds declared sagas, their plans and the decorator for `async def`; `application` gathers sagas and
services under one name; `catalogue` makes the kernel's definitions of them. Users import these names from
`kompensate.orchestrator`.
"""
