"""A program of torch.export (.pt2), presented as a module with its parameters and buffers.

    FOLDER/models/NAME.json                         the graph and its signature
    FOLDER/data/weights/NAME_weights_config.json    {"config": {fqn: {"path_name", "tensor_meta"}}}
    FOLDER/data/weights/weight_N                    the bytes of a whole storage, little-endian
    FOLDER/data/constants/NAME_constants_config.json, tensor_N
    FOLDER/data/weights/NAME.pt                     a state_dict instead (torch 2.8)
    FOLDER/data/aotinductor/NAME/                   a library that AOTInductor compiled, its source
                                                    (.wrapper.cpp), which lists the constants in it
    FOLDER/data/aotinductor/NAME/weights_config.json    {fqn: [weight_N, shape, stride, offset]},
                                                    where weight_N is a file of torch.save
    serialized_exported_program.json, serialized_state_dict.pt, serialized_constants.pt
                                                    (torch 2.1 to 2.7, without a folder)

Sources: torch/export/pt2_archive/_package.py (_load_state_dict, _load_constants) and
torch/_export/serde/schema.py; codegen_model_constructor and AotCodeCompiler.compile of
torch/_inductor. Graphs and the constants in a library are read as data; compiled code is not read.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, UnsupportedError
from ptinspect.formats.archive import (
    Finding,
    PicklelessArchive,
    Span,
    prefix_storage_keys,
    text_items,
)
from ptinspect.formats.safetensors import dense_tensor, ordered_dict, parse_json
from ptinspect.formats.torch.pieces import Elements, locate, sizes_of
from ptinspect.formats.torch.zip_file import ZipArchive
from ptinspect.formats.zip_directory import STORED, ZipSpan
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.numpy_objects import required_numel
from ptinspect.pickling.pyobjects import as_mapping
from ptinspect.pickling.values import SCRIPT_OBJECT, Call, Global, SetOf, Value
from ptinspect.source.base import MemorySource, SliceSource, Source
from ptinspect.text import bounded_repr, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.formats.zip_directory import ZipDirectory

MAX_JSON = 64 << 20
"""Bytes of JSON that are read per record."""

_OLD = "serialized_exported_program.json"
_COMPILED = "data/aotinductor/"
_WRAPPER = ".wrapper.cpp"
_INFO = r"constants_info_\[\d+\]\."
_CONSTANT = re.compile(
    rf"{_INFO}dtype = \w*dtype_(?P<dtype>\w+);\s+"
    rf"(?:{_INFO}device_type = \w*type_(?P<device>\w+);\s+)?"
    rf"{_INFO}offset = (?P<offset>\d{{1,18}});\s+"
    rf"{_INFO}data_size = (?P<size>\d{{1,18}});\s+"
    rf"{_INFO}from_folded = (?P<folded>\w+);\s+"
    rf"{_INFO}type = .*::(?P<kind>\w+)\);\s+"
    rf"{_INFO}shape = {{(?P<shape>[\d, ]*)}};\s+"
    rf"{_INFO}stride = {{(?P<stride>[\d, ]*)}};\s+"
    rf"{_INFO}layout = .*layout_(?P<layout>\w+)\);\s+"
    rf"(?:{_INFO}opaque_metadata = .*;\s+)?"
    rf'{_INFO}original_fqn = "(?P<name>[^"\n]*)";'
)
_PROGBITS, _SYMTAB, _DYNSYM = 1, 2, 11
_STRIDED = 7
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
    8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16",
    28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""torch._export.serde.schema.ScalarType."""


class TorchExport(ZipArchive):
    """See the module's docstring. `inner` are the files of torch.save that it contains."""

    format = "torch-export"
    folder = ""

    def read_json(self, record: str) -> dict[str, Any]:
        """Return the object in a record."""
        raw = self.read_record(record, MAX_JSON)
        value = parse_json(raw, f"record {printable_name(record)}")
        if not isinstance(value, dict):
            raise DamagedError("the record is not an object of JSON", where=Place(record, 0))
        return value


def read_export(
    source: Source, directory: ZipDirectory, folder: str, open_archive: OpenArchive,
    limits: Limits = LIMITS,
) -> TorchExport:  # fmt: skip
    """Read the programs of a .pt2. DamagedError if a record is missing or shorter than its tensor,
    LimitError if a graph is larger than `MAX_JSON`."""
    archive = TorchExport(source, directory, limits)
    archive.folder = folder
    programs: dict[str, Value] = {}
    facts, compiled = [], []
    prefix = f"{folder}models/"
    records = [n for n in directory.names if n.startswith(prefix) and n.endswith(".json")]
    for record in [_OLD] if _OLD in directory.index else records:
        name = "model" if record == _OLD else record[len(prefix) : -len(".json")]
        graph = archive.read_json(record)
        signature = _at(graph, "graph_module", "signature") or {}
        tensors = {
            kind: _read_tensors(archive, kind, name, open_archive)
            for kind in ("weights", "constants")
        }
        programs[name] = _module(signature, tensors["weights"], tensors["constants"])
        facts.append(_describe(name, graph, signature))
    models: dict[str, list[str]] = {}
    prefix = f"{folder}{_COMPILED}"
    for record in directory.names:
        name, slash, _ = record.removeprefix(prefix).partition("/")
        if record.startswith(prefix) and slash:
            models.setdefault(name, []).append(record)
    for name, records in models.items():
        if f"{prefix}{name}/weights_config.json" in records:
            weights = _compiled_weights(archive, name, open_archive)
            programs.setdefault(name, _module({}, weights, {}))
        elif module := _library_module(archive, records):
            programs.setdefault(name, module)
        files = {
            record.rpartition("/")[2]: directory.sizes[directory.index[record]]
            for record in records
        }
        listed = [{"name": file, "size": size} for file, size in files.items()]
        compiled.append({"name": name, "files": listed})
        names = [file for file in files if file.endswith((".so", ".pyd", ".dll", ".cubin"))]
        text = f"compiled code of AOTInductor, which is not examined: {join_names(names)}"
        archive.warnings.append(Finding("compiled-code", text))
        if name in programs:
            text = "constants of up to 8 elements may be in compiled code only, not here;"
            text += " tied ones are listed once"
            archive.warnings.append(Finding("compiled-code", text))
    if compiled:
        archive.facts["compiled"] = compiled
        archive.facts |= {} if facts else {"reader": "compiled torch-export"}
    archive.facts["programs"] = facts
    archive.value = next(iter(programs.values())) if len(programs) == 1 else dict(programs)
    return archive


def _compiled_weights(
    archive: TorchExport, name: str, open_archive: OpenArchive
) -> dict[str, Value]:
    """Return the weights of a compiled model that are not in its library: views of the tensors in
    `data/weights`, which are files of torch.save. Source: _package_aoti_files."""
    record = f"{archive.folder}{_COMPILED}{name}/weights_config.json"
    tensors: dict[str, Value] = {}
    files: dict[str, tuple[Elements, bool]] = {}
    for fqn, entry in archive.read_json(record).items():
        label = f"the tensor {bounded_repr(fqn)}"
        if not isinstance(entry, list) or len(entry) != 4 or not _is_size(entry[3]):
            raise DamagedError(f"{label} is not described", where=Place(record))
        file, offset = f"{archive.folder}data/weights/{entry[0]}", entry[3]
        if file not in files:
            value = _read_torch_file(archive, file, open_archive).get("")
            files[file] = locate(archive, value, label), _requires_grad(value)
        whole, requires_grad = files[file]
        shape, stride = sizes_of(entry[1], label), sizes_of(entry[2], label)
        needed = required_numel(offset, shape, stride) * whole.dtype.itemsize
        if len(shape) != len(stride) or needed > whole.span.length:
            raise DamagedError(f"{label} exceeds its storage", where=Place(record))
        tensors[fqn] = dense_tensor(
            whole.key, whole.dtype, shape, stride=stride, offset=offset,
            nbytes=whole.span.length, requires_grad=requires_grad,
        )  # fmt: skip
    return tensors


def _library_module(archive: TorchExport, records: list[str]) -> Value:
    """Return the model whose constants are in a library; None without any. They follow each other
    in the order in which the library's source lists them."""
    wrapper = next((record for record in records if record.endswith(_WRAPPER)), "")
    text = archive.read_record(wrapper, MAX_JSON).decode("utf-8", "replace") if wrapper else ""
    listed = [match.groupdict() for match in _CONSTANT.finditer(text)]
    rows = [row for row in listed if row["folded"] == "false"]  # others: computed when loaded
    is_known = len(listed) == text.count("].original_fqn = ")
    if wrapper and not rows and is_known:
        return None  # it has no constants, or only some that are computed when it is loaded
    problem, prefix, begin = "", str(len(archive.inner)), 0
    values: dict[str, dict[str, Value]] = {"weights": {}, "constants": {}}
    specs: list[dict[str, dict[str, str]]] = []
    try:
        if not wrapper or not is_known:
            state = "not as torch 2.13 writes it" if wrapper else "missing"
            raise DamagedError(f"their source is {state}")
        size = sum(int(row["size"]) for row in rows)
        record, begin = _find_constants(archive, records, wrapper.removesuffix(".cpp"), size)
        archive.inner[prefix] = library = PicklelessArchive(
            _open_record(archive, record), archive.limits, "torch-export"
        )
    except (DamagedError, struct.error) as error:
        problem = f", because {error}"
    for row in rows:
        name, dtype = row["name"], dtype_by_name(row["dtype"])
        kind = row["kind"].lower().replace("unknown", "parameter")
        sizes = (re.findall(r"\d+", row[key]) for key in ("shape", "stride"))
        shape, stride = (tuple(map(int, numbers)) for numbers in sizes)
        offset, room = int(row["offset"]), 0 if row["layout"] != "strided" else int(row["size"])
        needed = required_numel(offset, shape, stride) * dtype.itemsize if dtype else room + 1
        if not problem and dtype and len(shape) == len(stride) and needed <= room:
            index = archive.directory.index[record]
            library.spans[name] = ZipSpan(archive.directory, index, begin, needed)
            if library.source.base is None:  # the record is compressed
                library.spans[name] = Span(record, needed, begin, None)
            values["constants" if kind == "tensorconstant" else "weights"][name] = dense_tensor(
                f"{prefix}:{name}", dtype, shape, row["device"] or "cpu", stride=stride,
                offset=offset, nbytes=needed, requires_grad=kind == "parameter",
            )  # fmt: skip
            specs.append({kind: {f"{kind}_name": name}})
        begin += int(row["size"])
    names = {row["name"] for row in rows} - {*values["weights"], *values["constants"]}
    if unknown := [row["name"] for row in rows if row["kind"] == "Unknown"]:
        text = f"not recorded whether parameters or buffers: {join_names(unknown)}"
        archive.warnings.append(Finding("compiled-code", text))
    if names or problem:
        listing = f": {join_names(sorted(names))}" if names else ""
        text = f"constants in compiled code are not read{problem}{listing}"
        archive.warnings.append(Finding("unread-object", text))
    return _module({"input_specs": specs}, **values) if rows else None


def _find_constants(
    archive: TorchExport, records: list[str], stem: str, size: int
) -> tuple[str, int]:
    """Return the record with the constants, `size` bytes together, and where in it they begin.
    DamagedError if nothing has as many bytes of constants."""
    sizes = {name: archive.directory.sizes[archive.directory.index[name]] for name in records}
    if sizes.get(blob := f"{stem}_weights.blob") == size:
        return blob, 0
    libraries = [name for name in records if name in (f"{stem}.so", f"{stem}.o")]
    libraries = libraries or [name for name in records if name.endswith(".weights.o")]
    if len(libraries) != 1:
        raise DamagedError("the library is missing")
    source = _open_record(archive, libraries[0])
    start, length = _find_symbol(source)
    if length == 16:  # the constants are at the end of a file, before a number that is here too
        total, mark = struct.unpack("<q8s", source.read(start, 16))
        for record in (libraries[0], f"{stem}_serialized_weights.bin"):
            end = sizes.get(record, 0)
            if end >= total == size + 8 and _open_record(archive, record).read(end - 8, 8) == mark:
                return record, end - total
    if length != size:
        text = f"the library has {length:,} bytes of constants, and its source lists {size:,}"
        raise DamagedError(text)
    return libraries[0], start


def _find_symbol(source: Source) -> tuple[int, int]:
    """Return offset and length of the constants in a library, an ELF file of 64 bits. DamagedError
    if there are none."""
    sections: list[tuple[int, ...]] = []
    head = source.read(0, min(64, source.size))
    if head[:6] == b"\x7fELF\2\1" and len(head) == 64:
        begin, count = struct.unpack_from("<Q", head, 40)[0], struct.unpack_from("<H", head, 60)[0]
        sections += struct.iter_unpack("<IIQQQQIIQQ", source.read(begin, 64 * count))
    for _, kind, _, _, begin, size, link, *_ in sections:
        if kind not in (_SYMTAB, _DYNSYM) or link >= len(sections) or size > MAX_JSON or size % 24:
            continue
        texts = source.read(sections[link][4], min(sections[link][5], MAX_JSON))
        places = {
            word: (section, address, length)
            for name, _, _, section, address, length in struct.iter_unpack(
                "<IBBHQQ", source.read(begin, size)
            )
            for word in (b"start", b"end")
            if texts.startswith(b"_binary_constants_bin_" + word + b"\0", name)
        }
        section, address, length = places.get(b"start", (len(sections), 0, 0))
        if section < len(sections):
            length = length or places.get(b"end", (0, address))[1] - address
            _, kind, _, base, begin, size, *_ = sections[section]
            if kind == _PROGBITS and base <= address and 0 < length <= size - (address - base):
                return begin + address - base, length
    raise DamagedError("the library is not an ELF file with constants")


def _at(value: Any, *keys: str) -> Any:
    """Return the value under nested keys of JSON, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _read_tensors(
    archive: TorchExport, kind: str, name: str, open_archive: OpenArchive
) -> dict[str, Value]:
    """Return the weights or constants of a program by their names."""
    folder, index = archive.folder, archive.directory.index
    old = "serialized_state_dict.pt" if kind == "weights" else "serialized_constants.pt"
    for record in (f"{folder}data/{kind}/{name}.pt", old):
        if record in index:
            return _read_torch_file(archive, record, open_archive)
    if _OLD in index:
        return {}
    config = archive.read_json(f"{folder}data/{kind}/{name}_{kind}_config.json").get("config")
    tensors: dict[str, Value] = {}
    for fqn, entry in config.items() if isinstance(config, dict) else ():
        record = f"{folder}data/{kind}/{_at(entry, 'path_name')}"
        if _at(entry, "use_pickle") is True:
            values = _read_torch_file(archive, record, open_archive)
            tensors[fqn] = values.get("")
        elif str(_at(entry, "path_name")).startswith(("weight_", "tensor_")):
            tensors[fqn] = _tensor(archive, fqn, entry, record)
        else:
            text = f"{bounded_repr(fqn)} is an object in {printable_name(record)}"
            archive.warnings.append(Finding("unread-object", f"{text}, which is not read"))
    return tensors


def _tensor(archive: TorchExport, fqn: str, entry: dict[str, Any], record: str) -> Call:
    """Return the call that builds the tensor which an entry of a config describes."""
    meta = _at(entry, "tensor_meta") or {}
    number = meta.get("dtype")
    name = _DTYPES.get(number) if isinstance(number, int) else None
    dtype: DType | None = dtype_by_name(name) if name is not None else None
    shape, stride = (  # [{"as_int": 3}, …]
        tuple(_at(item, "as_int") for item in items) if isinstance(items, list) else (None,)
        for items in (meta.get("sizes"), meta.get("strides"))
    )
    offset = _at(meta, "storage_offset", "as_int")
    if len(shape) != len(stride) or not all(map(_is_size, (*shape, *stride, offset))):
        raise DamagedError(f"the tensor {bounded_repr(fqn)} has no shape", where=Place(record))
    if dtype is None or meta.get("layout") != _STRIDED:
        raise UnsupportedError(
            f"the tensor {bounded_repr(fqn)} has the dtype {number!r} and the layout"
            f" {meta.get('layout')!r}, which are not known",
            where=Place(record),
        )
    needed = required_numel(offset, shape, stride) * dtype.itemsize
    nbytes = archive.check_record(record, needed, f"the tensor {bounded_repr(fqn)}")
    device = meta.get("device")
    location = str(_at(device, "type") or "cpu")
    if isinstance(_at(device, "index"), int):
        location += f":{_at(device, 'index')}"
    return dense_tensor(
        record, dtype, shape, location, stride=stride, offset=offset,
        nbytes=nbytes, requires_grad=meta.get("requires_grad") is True,
    )  # fmt: skip


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _open_record(archive: TorchExport, record: str) -> Source:
    directory = archive.directory
    index = directory.index.get(record)
    if index is None:
        raise DamagedError(f"the record {printable_name(record)} is missing", hint=DOWNLOAD_AGAIN)
    if directory.methods[index] == STORED:
        return SliceSource(archive.source, directory.start(index), directory.sizes[index])
    data = archive.read_record(record, archive.limits.inflated_bytes)
    return MemorySource(data, archive.source.path, base=None)


def _read_torch_file(
    archive: TorchExport, record: str, open_archive: OpenArchive
) -> dict[str, Value]:
    """Return the tensors in a record that is a file of torch.save; a single one has the name ""."""
    nested = open_archive(_open_record(archive, record), archive.limits)
    number = str(len(archive.inner))
    prefix_storage_keys(nested.pickled, number)
    archive.inner[number] = nested
    archive.streams += nested.streams
    return {"": nested.root} if as_mapping(nested.root) is None else text_items(nested.root)


def _module(
    signature: dict[str, Any], weights: dict[str, Value], constants: dict[str, Value]
) -> Call:
    """Return the program as a module. The signature says which weights are buffers, and which
    constants are buffers that are not in the state_dict."""
    buffers: dict[str, bool] = {}
    parameters: set[str] = set()
    for spec in _specs(signature, "input_specs"):
        if (name := _at(spec, "parameter", "parameter_name")) is not None:
            parameters.add(str(name))
        elif (name := _at(spec, "buffer", "buffer_name")) is not None:
            buffers[str(name)] = _at(spec, "buffer", "persistent") is not False
    # Weights without an input are tied to others, or not used by the graph.
    groups: dict[str, dict[str, Value]] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for name, value in weights.items():
        is_buffer = name in buffers or (name not in parameters and not _requires_grad(value))
        groups["_buffers" if is_buffer else "_parameters"][name] = value
    hidden = SetOf(False, 0)
    others: dict[Value, Value] = {}
    for name, value in constants.items():
        if name in buffers:
            groups["_buffers"][name] = value
            hidden.members[name] = None
        else:
            others[name] = value
    call = Call(Global("torch.export", "ExportedProgram", 0), (), SCRIPT_OBJECT, 0)
    state: dict[Value, Value] = {key: ordered_dict(items) for key, items in groups.items()}
    call.change().states.append(state | {"_non_persistent_buffers_set": hidden} | others)
    return call


def _requires_grad(value: Value) -> bool:
    if not isinstance(value, Call):
        return False
    name = getattr(value.func, "name", "")
    return name == "_rebuild_parameter" or (len(value.args) > 4 and value.args[4] is True)


def _specs(signature: dict[str, Any], key: str) -> list[Any]:
    specs = _at(signature, key)
    return specs if isinstance(specs, list) else []


def _describe(name: str, graph: dict[str, Any], signature: dict[str, Any]) -> dict[str, object]:
    """Return inputs, outputs, operators with their counts, and ranges of dynamic sizes."""
    nodes = _at(graph, "graph_module", "graph", "nodes")
    targets = [str(_at(node, "target")) for node in nodes] if isinstance(nodes, list) else []
    counts = Counter(target.removeprefix("torch.ops.") for target in targets)
    ranges = graph.get("range_constraints")
    return {
        "name": name,
        "inputs": _argument_names(_specs(signature, "input_specs"), "user_input"),
        "outputs": _argument_names(_specs(signature, "output_specs"), "user_output"),
        "operators": [{"name": key, "count": count} for key, count in counts.most_common()],
        "ranges": {
            str(symbol): [_at(bounds, "min_val"), _at(bounds, "max_val")]
            for symbol, bounds in (ranges.items() if isinstance(ranges, dict) else ())
        },
    }


def _argument_names(specs: list[Any], kind: str) -> list[str]:
    """Return the names of the arguments that the user passes or gets."""
    names = []
    for spec in specs:
        argument = _at(spec, kind, "arg")
        content = next(iter(argument.values()), None) if isinstance(argument, dict) else None
        if isinstance(content, dict) and isinstance(content.get("name"), str):
            names.append(content["name"])
        elif kind in (spec if isinstance(spec, dict) else ()):
            names.append(bounded_repr(content))
    return names
