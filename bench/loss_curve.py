"""Trains the runs of bench/loss-curve.ts in PyTorch and writes the losses of every step.

The initial weights, batches, learning rates and temperatures are the same.

    apt-get install python3-torch python3-torchvision python3-scipy      (Debian's, with Debian's own /usr/bin/python3)
    python3 loss_curve.py FOLDER [--float64] [--missing]     for each seed, FOLDER/seed-N/float32.json or float64.json
"""
import argparse
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "golden"))
import numpy  # noqa: E402
import torch  # noqa: E402

import dsrcnn_torch as R  # noqa: E402

RENAMED = {
    "numClassLayers": "num_cls_layers",
    "numRegressionLayers": "num_reg_layers",
    "priorProbability": "prior_prob",
}
# Settings that the reference does not have. The initial weights contain their effect, or they change no number.
NOT_IN_REFERENCE = {"proposalInit", "gradientCheckpointing"}


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    kinds = {"F32": numpy.float32, "U8": numpy.uint8}
    out = {}
    for name, entry in json.loads(data[8: 8 + size]).items():
        begin, end = entry["data_offsets"]
        array = numpy.frombuffer(data[8 + size + begin: 8 + size + end], kinds[entry["dtype"]]).reshape(entry["shape"])
        out[name] = torch.from_numpy(array.copy())
    return out


def config_of(model):
    cfg = R.Config(fpn_channels=model["hiddenDim"])
    for key, value in model.items():
        if key in NOT_IN_REFERENCE:
            continue
        name = RENAMED.get(key, re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), key))
        if not hasattr(cfg, name):
            raise KeyError(f"run.json: model.{key}: expected a key of the reference, got another one")
        setattr(cfg, name, tuple(value) if isinstance(value, list) else value)
    return cfg


def train(folder, dtype):
    """Trains the run that bench/loss-curve.ts wrote into the folder; returns the run and the numbers of its steps."""
    with open(os.path.join(folder, "run.json")) as f:
        run = json.load(f)
    cfg = config_of(run["model"])
    model = R.DynamicSparseRCNN(cfg)
    model.load_state_dict(read_safetensors(os.path.join(folder, "weights.safetensors")), strict=True)
    model.to(dtype)
    pixels = read_safetensors(os.path.join(folder, "images.safetensors"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run["learningRate"], weight_decay=run["weightDecay"])

    steps = []
    for i, step in enumerate(run["steps"]):
        images = [pixels[f"images.{i}.{b}"].permute(2, 0, 1).to(dtype) for b in range(len(step["targets"]))]
        targets = [
            R.Target(
                torch.tensor(t["labels"], dtype=torch.long),
                torch.tensor(t["boxes"], dtype=dtype).view(-1, 4),
                torch.tensor([image.shape[2], image.shape[1]] * 2, dtype=dtype),
            )
            for t, image in zip(step["targets"], images)
        ]
        optimizer.param_groups[0]["lr"] = step["learningRate"]
        logits, coords, _ = model(images, step["temperature"])
        total, parts, matches = R.set_loss(logits, coords, targets, cfg)
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, run["clipNorm"])
        optimizer.step()
        by_stage = {
            f"{ours}_loss": [parts[f"{part}_{s}"].item() for s in range(cfg.num_stages)]
            for ours, part in (("class", "ce"), ("l1", "l1"), ("giou", "giou"))
        }
        positives = [sum(len(p) for p, _ in m) for m in matches]
        steps.append({"loss": total.item(), **by_stage, "grad_norm": norm.item(), "positives": positives})
    return run, steps


def main():
    a = argparse.ArgumentParser()
    a.add_argument("folder")
    a.add_argument("--float64", action="store_true")
    a.add_argument("--missing", action="store_true", help="only seeds without a result file")
    args = a.parse_args()
    precision = "float64" if args.float64 else "float32"
    for name in sorted(os.listdir(args.folder)):
        path = os.path.join(args.folder, name, precision + ".json")
        if not re.fullmatch(r"seed-\d+", name) or (args.missing and os.path.exists(path)):
            continue
        run, steps = train(os.path.join(args.folder, name), getattr(torch, precision))
        copied = {key: run[key] for key in ("seed", "learningRate", "checksum")}
        head = {"torch": torch.__version__, "precision": precision, **copied}
        with open(path, "w") as f:
            f.write(json.dumps(head)[:-1] + ', "steps": [\n' + ",\n".join(json.dumps(s) for s in steps) + "\n]}\n")
        print(f"{path}: loss {steps[0]['loss']:.4f} ... {steps[-1]['loss']:.4f}", flush=True)


if __name__ == "__main__":
    main()
