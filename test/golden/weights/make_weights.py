"""Writes the checkpoint files that the tests of checkpoint readers read, and values.json with their values.

    apt-get install python3-torch python3-numpy      (Debian's: PyTorch 1.13, numpy 1.24)
    /usr/bin/python3 make_weights.py                 writes into the folder of this file

values.json has the shape and the values of each tensor of each file: base64 of little-endian float32. Tensors are
small, random and seeded.
  <type>.zip.pth, <type>.legacy.pth   f32, f16, bf16: torch.save of the same views of one storage, in both formats
  types.zip.pth                       every other element type
  detectron2.p<n>.pkl                 {"model": {name: numpy array}, "__author__": ...} in pickle protocols 2, 4, 5
  python2.pkl                         a file as Python 2 wrote it, with byte strings; made opcode by opcode
  resnet18.torchvision.pth            a ResNet-18 of 4 channels under torchvision's names
  training.pth                        {"model", "optimizer", "scheduler", "iteration", ...} as a training loop saves it
  hostile.<way>.pkl                   calls such as os.system by REDUCE, INST, OBJ, STACK_GLOBAL, BUILD and others. If a
                                      reader ran one, the command would write a file.
"""
import argparse
import base64
import collections
import json
import os
import pickle
import struct

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
values = {}


def path(name):
    return os.path.join(HERE, name)


def record(name, tensors):
    def stored(t):
        tensor = t.detach() if torch.is_tensor(t) else torch.as_tensor(np.array(t))
        array = tensor.float().contiguous().numpy()
        return {"shape": list(array.shape), "data": base64.b64encode(array.astype("<f4").tobytes()).decode()}
    values[name] = {key: stored(t) for key, t in tensors.items()}


def views(dtype):
    """Views of one storage as in state dicts: whole, transposed, offset slice, shared, expanded, empty, scalar."""
    g = torch.Generator().manual_seed(5)
    base = torch.randn(6, 10, generator=g).to(dtype)
    base[0, :5] = torch.tensor([0.0, -0.0, 65504.0, 6e-8, -1.5]).to(dtype)
    own = torch.randn(2, 3, 4, 5, generator=g).to(dtype)
    return collections.OrderedDict([
        ("whole", base), ("transposed", base.t()), ("slice", base[1:5:2, 3:7]), ("shared", base),
        ("expanded", base[2:3, :4].expand(3, 4)),
        ("channels_last", own.contiguous(memory_format=torch.channels_last)),
        ("empty", base[:0]), ("scalar", own[1, 2, 3, 4]),
        ("parameter", torch.nn.Parameter(own[:, 1].clone())),
    ])


def torch_files():
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        tensors = views(dtype)
        for kind, is_zip in (("zip", True), ("legacy", False)):
            torch.save(tensors, path(f"{name}.{kind}.pth"), _use_new_zipfile_serialization=is_zip)
            record(f"{name}.{kind}.pth", tensors)
    dtypes = (torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    types = collections.OrderedDict(
        (str(t).split(".")[1], torch.tensor([[0, 1, 2], [100, 7, 127]]).to(t)) for t in dtypes
    )
    types["int64"][0, 1] = -(2 ** 40)
    content = {"state_dict": types, "note": "a text", "complex": torch.zeros(2, dtype=torch.complex64)}
    torch.save(content, path("types.zip.pth"))
    record("types.zip.pth", types)


def training_file():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    content = {
        "model": model.state_dict(), "ema": {"module": model.state_dict()}, "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "iteration": 7, "args": argparse.Namespace(lr=0.1, name="run"),
        "sizes": torch.Size([1, 2]), "best": np.float64(0.5), "device": torch.device("cpu"),
    }
    torch.save(content, path("training.pth"))
    record("training.pth", model.state_dict())


def detectron2_files():
    r = np.random.default_rng(3)
    arrays = {
        "backbone.bottom_up.stem.conv1.weight": r.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "fortran": np.asfortranarray(r.standard_normal((3, 5)).astype(np.float16)),
        "large": r.standard_normal((160, 104)).astype(np.float32),     # 67 kB: a long text in protocol 2
        "double": r.standard_normal(3), "empty": np.zeros((0, 4), np.float32),
        "count": np.array(7), "scalar": np.float32(2.5),
    }
    for protocol in (2, 4, 5):
        with open(path(f"detectron2.p{protocol}.pkl"), "wb") as f:
            pickle.dump({"model": arrays, "__author__": "the test", "matching_heuristics": True}, f, protocol=protocol)
    record("detectron2", arrays)


def python2_file():
    """The bytes that cPickle of Python 2 writes with protocol 2 for {"blobs": {...}} with Caffe2's names.

    Names and data are byte strings.
    """
    def string(b):
        return b"U" + bytes([len(b)]) + b if len(b) < 256 else b"T" + struct.pack("<i", len(b)) + b

    def integer(n):
        return b"K" + bytes([n])

    def array(a, code):
        shape = b"(" + b"".join(integer(n) for n in a.shape) + b"t"
        dtype = (b"cnumpy\ndtype\n" + string(code) + integer(0) + integer(1) + b"\x87R(" + integer(3) + string(b"<")
                 + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + integer(0) + b"tb")
        return (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b")
                + b"\x87R(" + integer(1) + shape + dtype + b"\x89" + string(a.tobytes()) + b"tb")

    r = np.random.default_rng(4)
    blobs = {
        "conv1_w": r.standard_normal((4, 3, 7, 7)).astype("<f4"),
        "res_conv1_bn_s": r.standard_normal(4).astype("<f4"),
        "res_conv1_bn_b": r.standard_normal(4).astype("<f4"),
        "res2_0_branch2a_w": r.standard_normal((4, 4, 1, 1)).astype("<f4"),
    }
    out = b"\x80\x02}(" + string(b"blobs") + b"}("
    for name, a in blobs.items():
        out += string(name.encode()) + array(a, b"f4")
    with open(path("python2.pkl"), "wb") as f:
        f.write(out + b"uu.")
    loaded = pickle.loads(out + b"uu.", encoding="latin1")["blobs"]
    assert all(np.array_equal(loaded[name], a) for name, a in blobs.items())
    record("python2.pkl", blobs)


def resnet_file():
    """torchvision.models.resnet18's names at a sixteenth of its width, with its classifier."""
    g = torch.Generator().manual_seed(9)
    tensors = collections.OrderedDict()

    def conv(name, norm, cout, cin, k):
        tensors[f"{name}.weight"] = torch.randn(cout, cin, k, k, generator=g).half()
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = torch.rand(cout, generator=g)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(3)

    conv("conv1", "bn1", 4, 3, 7)
    cin = 4
    for layer, cout in enumerate((4, 8, 16, 32), 1):
        for block in range(2):
            prefix = f"layer{layer}.{block}"
            conv(f"{prefix}.conv1", f"{prefix}.bn1", cout, cin, 3)
            conv(f"{prefix}.conv2", f"{prefix}.bn2", cout, cout, 3)
            if cin != cout:
                conv(f"{prefix}.downsample.0", f"{prefix}.downsample.1", cout, cin, 1)
            cin = cout
    tensors["fc.weight"], tensors["fc.bias"] = torch.randn(10, 32, generator=g), torch.zeros(10)
    torch.save(tensors, path("resnet18.torchvision.pth"))
    kept = ("conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.bias")
    record("resnet18.torchvision.pth", {k: tensors[k] for k in kept})


def hostile_files():
    command = b"touch /tmp/executed-by-a-pickle"
    text = b"X" + struct.pack("<I", len(command)) + command

    class Attack:
        def __reduce__(self):
            return os.system, (command.decode(),)

    files = {
        "reduce": pickle.dumps(Attack(), protocol=2),
        "stack_global": pickle.dumps(Attack(), protocol=4),
        "nested": pickle.dumps(
            {"model": {"weight": np.zeros(2, np.float32), "bias": [{"deep": (1, Attack())}]}, "__author__": "x"},
            protocol=2,
        ),
        "inst": b"\x80\x02(" + text + b"iposix\nsystem\n.",
        "obj": b"\x80\x02(cposix\nsystem\n" + text + b"o.",
        "eval": b"\x80\x02c__builtin__\neval\n" + text + b"\x85R.",
        "build": b"\x80\x02ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb" + text + b"b.",
        "extension": b"\x80\x02\x82\x07" + text + b"\x85R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncos\npath\n" + text + b"\x86R.",
        "load_from_bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01x\x85R.",
        "call_class": b"\x80\x02cnumpy\nndarray\n" + text + b"\x85R.",
        "newobj": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
    }
    for name, data in files.items():
        with open(path(f"hostile.{name}.pkl"), "wb") as f:
            f.write(data)
    for kind, is_zip in (("zip", True), ("legacy", False)):
        content = {"model": {"w": torch.zeros(2)}, "x": Attack()}
        torch.save(content, path(f"hostile.{kind}.pth"), _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    torch_files()
    training_file()
    detectron2_files()
    python2_file()
    resnet_file()
    hostile_files()
    with open(path("values.json"), "w") as f:
        json.dump(values, f)
