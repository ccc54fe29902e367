"""The part of SARIF 2.1.0 that we write, as a schema: names, types and values as the standard has
them (sections 3.13, 3.14, 3.18 to 3.20, 3.27 to 3.33, 3.49, 3.58), and nothing besides.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


MESSAGE = closed(["text"], text=TEXT)
RULE = closed(
    ["id"],
    id=TEXT,
    shortDescription=MESSAGE,
    defaultConfiguration=closed([], level=LEVEL),
)
REGION = closed(
    ["byteOffset"],
    byteOffset={"type": "integer", "minimum": 0},
    byteLength={"type": "integer", "minimum": 0},
)
URI = {"type": "string", "pattern": r"^(file:///|[^:/\s][^:\s]*$)"}
PHYSICAL = closed(["artifactLocation"], artifactLocation=closed(["uri"], uri=URI), region=REGION)
LOCATION = closed(
    ["physicalLocation"],
    physicalLocation=PHYSICAL,
    logicalLocations={"type": "array", "items": closed(["name"], name=TEXT, kind=TEXT)},
)
RESULT = closed(
    ["message", "ruleId", "level"],
    ruleId=TEXT,
    level=LEVEL,
    message=MESSAGE,
    locations={"type": "array", "minItems": 1, "items": LOCATION},
)
DRIVER = closed(
    ["name"], name=TEXT, version=TEXT, rules={"type": "array", "uniqueItems": True, "items": RULE}
)
NOTIFICATION = closed(
    ["message"],
    level=LEVEL,
    message=MESSAGE,
    locations={"type": "array", "minItems": 1, "items": LOCATION},
)
INVOCATION = closed(
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications={"type": "array", "minItems": 1, "items": NOTIFICATION},
)
RUN = closed(
    ["tool", "results"],
    tool=closed(["driver"], driver=DRIVER),
    invocations={"type": "array", "items": INVOCATION},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": RESULT},
)
SARIF = closed(
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={"type": "array", "items": RUN},
)
