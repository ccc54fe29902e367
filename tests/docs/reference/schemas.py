"""docs/reference/json.md: the shipped JSON Schemas, a table for each object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.conftest import ROOT
from tests.docs.reference.meanings import MEANINGS
from tests.docs.reference.words import code, marked, table

Schema = dict[str, Any]


class Field(NamedTuple):
    """One key of an object: `where` as MEANINGS has it ("show.tensor.storage.key")."""

    where: str
    name: str
    schema: Schema
    required: bool


def files() -> dict[str, Schema]:
    """By the name of the output: `show` first, as everybody meets it first."""
    found = sorted((ROOT / "ptinspect").rglob("*.schema.json"))
    found.sort(key=lambda path: path.name != "show.schema.json")
    return {path.name.split(".")[0]: json.loads(path.read_text("utf-8")) for path in found}


def made() -> str:
    """A section for each schema."""
    return "\n\n".join(_section(name, schema) for name, schema in files().items())


def _section(name: str, schema: Schema) -> str:
    path = next((ROOT / "ptinspect").rglob(f"{name}.schema.json")).relative_to(ROOT).as_posix()
    said = marked(schema.get("description", ""))
    parts = [f"## {schema['title']}", f"Its schema is `{path}`. {said}".strip()]
    for title, said, fields in objects(name, schema):
        parts.append(f"### {title}")
        if said:
            parts.append(marked(said))
        rows = [_row(name, schema, field) for field in fields]
        parts.append(table(["key", "value", "meaning"], rows))
    return "\n\n".join(parts)


def objects(name: str, schema: Schema) -> Iterator[tuple[str, str, list[Field]]]:
    """Each object of a schema: its title, what is said of it, its keys."""
    if "properties" in schema:
        yield name.replace("-", " "), "", list(_fields(name, schema))
    for key, value in schema.get("$defs", {}).items():
        fields = [field for one in _objects(value) for field in _fields(f"{name}.{key}", one)]
        if fields:
            yield f"{name.replace('-', ' ')}: {key}", value.get("description", ""), fields


def _objects(schema: Schema) -> list[Schema]:
    """The objects that it describes, also where it may be something else instead."""
    several = (schema, *schema.get("oneOf", ()), *schema.get("anyOf", ()))
    return [one for one in several if "properties" in one]


def _fields(where: str, schema: Schema, before: str = "") -> Iterator[Field]:
    """The keys of an object; those of an object inside of it below, with a dot between."""
    required = schema.get("required", ())
    for key, value in schema["properties"].items():
        yield Field(f"{where}.{key}", f"{before}{key}", value, key in required)
        inner, sign = _objects(value), "."
        if not inner and "items" in value:
            inner, sign = _objects(value["items"]), "[]."
        for one in inner:
            yield from _fields(f"{where}.{key}", one, f"{before}{key}{sign}")


def meaning(name: str, schema: Schema, field: Field) -> str:
    """What the schema says of it, or else MEANINGS."""
    said = field.schema.get("description")
    if said is None and "$ref" in field.schema:
        said = _target(schema, field.schema["$ref"]).get("description")
    if said is not None:
        return str(said)
    parts = field.where.split(".")
    return next((MEANINGS[key] for key in _ends(parts) if key in MEANINGS), "")


def _ends(parts: list[str]) -> Iterator[str]:
    """The longest first."""
    return (".".join(parts[at:]) for at in range(len(parts)))


def gaps() -> tuple[list[str], set[str]]:
    """The keys without a meaning, and the meanings without a key."""
    without: list[str] = []
    used: set[str] = set()
    for name, schema in files().items():
        for _, _, fields in objects(name, schema):
            for field in fields:
                if not meaning(name, schema, field):
                    without.append(field.where)
                used.update(_ends(field.where.split(".")))
    return without, set(MEANINGS) - used


def _row(name: str, schema: Schema, field: Field) -> tuple[str, str, str]:
    optional = "" if field.required else ", may be missing"
    kind = _kind(name, schema, field.schema) + optional
    return code(field.name), kind, marked(meaning(name, schema, field))


def _target(schema: Schema, ref: str) -> Schema:
    found: Schema = schema["$defs"][ref.removeprefix("#/$defs/")]
    return found


def _kind(name: str, schema: Schema, one: Schema) -> str:
    """Which values it may have, in words."""
    if "$ref" in one:
        target = _target(schema, one["$ref"])
        if not _objects(target):
            return _kind(name, schema, target)
        key = one["$ref"].removeprefix("#/$defs/")
        link = f"[{key}](#{name}-{key.lower()})"
        return f"{link} or null" if {"type": "null"} in target.get("oneOf", ()) else link
    if "const" in one:
        return code(json.dumps(one["const"]))
    if "enum" in one:
        return ", ".join(code(json.dumps(value)) for value in one["enum"])
    for many in ("oneOf", "anyOf"):
        if many in one:
            kinds = [_kind(name, schema, each) for each in one[many]]
            return " or ".join(dict.fromkeys(sorted(kinds, key=lambda kind: kind == "null")))
    return _plain_kind(name, schema, one)


def _plain_kind(name: str, schema: Schema, one: Schema) -> str:
    if "type" not in one:
        return "anything"
    types = one["type"] if isinstance(one["type"], list) else [one["type"]]
    said = [_WORDS[kind] for kind in types]
    if "array" in types and "items" in one:
        said[types.index("array")] = f"list of {_plural(_kind(name, schema, one['items']))}"
    return " or ".join(sorted(said, key=lambda word: word == "null"))


_WORDS = {
    "array": "list", "boolean": "true or false", "integer": "integer", "null": "null",
    "number": "number", "object": "object", "string": "string",
}  # fmt: skip


def _plural(kind: str) -> str:
    return {"string": "strings", "integer": "integers", "object": "objects"}.get(kind, kind)
