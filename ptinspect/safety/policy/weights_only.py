"""What `torch.load(weights_only=True)` takes without being told more.

Sources: `torch._weights_only_unpickler._get_allowed_globals`, and `torch.serialization.
get_safe_globals`, where importing torch enters a few more; a test holds this against both. The
opcodes that it takes are `pickling.opcodes.WEIGHTS_ONLY`.
"""

from __future__ import annotations

_NAMES = """
_codecs encode
builtins bytearray complex set
collections Counter OrderedDict
torch BFloat16Storage BFloat16Tensor BoolStorage BoolTensor ByteStorage ByteTensor CharStorage
torch CharTensor ComplexDoubleStorage ComplexFloatStorage DoubleStorage DoubleTensor FloatStorage
torch FloatTensor HalfStorage HalfTensor IntStorage IntTensor LongStorage LongTensor QInt32Storage
torch QInt8Storage QUInt2x4Storage QUInt4x2Storage QUInt8Storage ShortStorage ShortTensor Size
torch Tensor bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64
torch device float16 float32 float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2
torch float8_e5m2fnuz float8_e8m0fnu int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8
torch per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine
torch per_tensor_symmetric qint32 qint8 quint2x4 quint4x2 quint8 uint1 uint16 uint2 uint3 uint32
torch uint4 uint5 uint6 uint64 uint7 uint8
torch._tensor _rebuild_from_type_v2
torch._utils _rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy
torch._utils _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_parameter
torch._utils _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_tensor
torch._utils _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_wrapper_subclass
torch.cuda BFloat16Storage BFloat16Tensor BoolStorage BoolTensor ByteStorage ByteTensor
torch.cuda CharStorage CharTensor ComplexDoubleStorage ComplexFloatStorage DoubleStorage
torch.cuda DoubleTensor FloatStorage FloatTensor HalfStorage HalfTensor IntStorage IntTensor
torch.cuda LongStorage LongTensor ShortStorage ShortTensor
torch.cuda.sparse BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor
torch.cuda.sparse IntTensor LongTensor ShortTensor
torch.nn.parameter Parameter
torch.serialization _get_layout
torch.sparse BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor IntTensor
torch.sparse LongTensor ShortTensor
torch.storage TypedStorage UntypedStorage
torch.nested._internal.nested_tensor NestedTensor _rebuild_njt
torch.distributed._mesh_layout _FlatLayout _MeshLayout
"""

ALLOWED: frozenset[str] = frozenset(
    f"{line.split()[0]}.{name}" for line in _NAMES.strip().splitlines() for name in line.split()[1:]
)
"""Names that the weights-only unpickler accepts by default."""

BLOCKED = frozenset({"sys", "os", "posix", "nt"})
"""Modules whose names cannot be allowed, whoever asks (`_blocklisted_modules`)."""
