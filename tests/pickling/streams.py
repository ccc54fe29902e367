"""Streams that several tests look at: every protocol, Python 2's, and torch's."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from random import Random

from tests.pickling.torch_like import drawn, state_dict

VALUE = {
    "list": [1, -1, 300, 70_000, 1 << 40, None, True, False, 1.5],
    "text": ["", "a" * 300, "가", "\udc80"],
    "bytes": [b"", b"\0" * 300, bytearray(b"ab")],
    "sets": [{1, 2}, frozenset({3})],
    ("tuple", (1, 2, 3, (4,))): OrderedDict(a=1),
    7: complex(1, 2),
}
VALUE["again"] = VALUE["list"]

PROTOCOLS = {f"protocol {p}": pickle.dumps(VALUE, p) for p in range(6)}

# Written by Python 2.7.18: [{'k': u'\\uac00', 'n': (None, True, False)}, 1.5, -7, 'caf\\xc3\\xa9',
# '\\xff\\x00\\n"\\'', Old(), New(), set([3]), Args(), OrderedDict([('a', 1)]), the first again].
# Old is a class of the old kind, and Args one with __getinitargs__.
PYTHON2 = {
    "pickle 0": b"(lp0\n(dp1\nS'k'\np2\nV\\uac00\np3\nsS'n'\np4\n(NI01\nI00\ntp5\nsaF1.5\naI-7\naS'"
    b"caf\\xc3\\xa9'\np6\naS'\\xff\\x00\\n\"\\''\np7\na(i__main__\nOld\np8\n(dp9\nS'x'\np10\nI1\nsba"
    b"ccopy_reg\n_reconstructor\np11\n(c__main__\nNew\np12\nc__builtin__\nobject\np13\nNtp14\nRp15\n"
    b"(dp16\ng10\n(lp17\nI1\naL1180591620717411303424L\nasbac__builtin__\nset\np18\n((lp19\nI3\natp2"
    b"0\nRp21\na(I1\nS'a'\np23\ni__main__\nArgs\np24\n(dp25\nbaccollections\nOrderedDict\np26\n((lp2"
    b"7\n(lp28\ng23\naI1\naatp29\nRp30\nag1\na.",
    "pickle 1": b"]q\x00(}q\x01(U\x01kq\x02X\x03\x00\x00\x00\xea\xb0\x80q\x03U\x01nq\x04(NI01\nI00"
    b'\ntq\x05uG?\xf8\x00\x00\x00\x00\x00\x00J\xf9\xff\xff\xffU\x05caf\xc3\xa9q\x06U\x05\xff\x00\n"'
    b"'q\x07(c__main__\nOld\nq\x08oq\t}q\nU\x01xq\x0bK\x01sbccopy_reg\n_reconstructor\nq\x0c(c__main"
    b"__\nNew\nq\rc__builtin__\nobject\nq\x0eNtq\x0fRq\x10}q\x11h\x0b]q\x12(K\x01L118059162071741130"
    b"3424L\nesbc__builtin__\nset\nq\x13(]q\x14K\x03atq\x15Rq\x16(c__main__\nArgs\nq\x18K\x01U\x01aq"
    b"\x19oq\x1a}q\x1bbccollections\nOrderedDict\nq\x1c(]q\x1d]q\x1e(h\x19K\x01eatq\x1fRq h\x01e.",
    "pickle 2": b"\x80\x02]q\x00(}q\x01(U\x01kq\x02X\x03\x00\x00\x00\xea\xb0\x80q\x03U\x01nq\x04N"
    b"\x88\x89\x87q\x05uG?\xf8\x00\x00\x00\x00\x00\x00J\xf9\xff\xff\xffU\x05caf\xc3\xa9q\x06U\x05"
    b"\xff\x00\n\"'q\x07(c__main__\nOld\nq\x08oq\t}q\nU\x01xq\x0bK\x01sbc__main__\nNew\nq\x0c)\x81q"
    b"\r}q\x0eh\x0b]q\x0f(K\x01\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@esbc__builtin__\nset\nq\x10]q"
    b"\x11K\x03a\x85q\x12Rq\x13(c__main__\nArgs\nq\x15K\x01U\x01aq\x16oq\x17}q\x18bccollections\nOrd"
    b"eredDict\nq\x19]q\x1a]q\x1b(h\x16K\x01ea\x85q\x1cRq\x1dh\x01e.",
    "cPickle 0": b"(lp1\n(dp2\nS'k'\nV\\uac00\nsS'n'\n(NI01\nI00\ntp3\nsaF1.5\naI-7\naS'caf\\xc3\\x"
    b"a9'\np4\naS'\\xff\\x00\\n\"\\''\np5\na(i__main__\nOld\np6\n(dp7\nS'x'\nI1\nsbaccopy_reg\n_reco"
    b"nstructor\np8\n(c__main__\nNew\np9\nc__builtin__\nobject\np10\nNtRp11\n(dp12\nS'x'\n(lp13\nI1"
    b"\naL1180591620717411303424L\nasbac__builtin__\nset\np14\n((lp15\nI3\natRp16\na(I1\nS'a'\ni__ma"
    b"in__\nArgs\np17\n(dp18\nbaccollections\nOrderedDict\np19\n((lp20\n(lp21\nS'a'\naI1\naatRp22\na"
    b"g2\na.",
    "cPickle 1": b"]q\x01(}q\x02(U\x01kX\x03\x00\x00\x00\xea\xb0\x80U\x01n(NI01\nI00\ntuG?\xf8\x00"
    b"\x00\x00\x00\x00\x00J\xf9\xff\xff\xffU\x05caf\xc3\xa9q\x03U\x05\xff\x00\n\"'q\x04(c__main__\nO"
    b"ld\nq\x05oq\x06}q\x07U\x01xK\x01sbccopy_reg\n_reconstructor\nq\x08(c__main__\nNew\nq\tc__built"
    b"in__\nobject\nq\nNtRq\x0b}q\x0cU\x01x]q\r(K\x01L1180591620717411303424L\nesbc__builtin__\nset"
    b"\nq\x0e(]q\x0fK\x03atRq\x10(c__main__\nArgs\nq\x11K\x01U\x01aoq\x12}q\x13bccollections\nOrdere"
    b"dDict\nq\x14(]q\x15]q\x16(U\x01aK\x01eatRq\x17h\x02e.",
    "cPickle 2": b"\x80\x02]q\x01(}q\x02(U\x01kX\x03\x00\x00\x00\xea\xb0\x80U\x01nN\x88\x89\x87uG?"
    b"\xf8\x00\x00\x00\x00\x00\x00J\xf9\xff\xff\xffU\x05caf\xc3\xa9q\x03U\x05\xff\x00\n\"'q\x04(c__m"
    b"ain__\nOld\nq\x05oq\x06}q\x07U\x01xK\x01sbc__main__\nNew\nq\x08)\x81q\t}q\nU\x01x]q\x0b(K\x01"
    b"\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@esbc__builtin__\nset\nq\x0c]q\rK\x03a\x85Rq\x0e(c__main"
    b"__\nArgs\nq\x0fK\x01U\x01aoq\x10}q\x11bccollections\nOrderedDict\nq\x12]q\x13]q\x14(U\x01aK"
    b"\x01ea\x85Rq\x15h\x02e.",
}

TORCH = {
    "state_dict": state_dict(drawn(Random(1), 6), padding=300),
    "legacy state_dict": state_dict(drawn(Random(2), 4), legacy=True, padding=300),
}

STREAMS = PROTOCOLS | PYTHON2 | TORCH
