"""The paper's network at full size in PyTorch: writes a checkpoint with random weights and its results; times steps.

    apt-get install python3-torch python3-torchvision python3-scipy      (Debian's, with Debian's own /usr/bin/python3)
    python3 full_size.py write FOLDER --size 480x640 [--seed 1] [--gradients]
        -> FOLDER/checkpoint.pth (Detectron2 names, under "model"); FOLDER/expected.safetensors (names as in
           make_golden.py), computed in float64
    python3 full_size.py time FOLDER --size 480x640 --mode forward|step
        -> for each line on standard input: runs once in float32 and prints the milliseconds (bench/full-size.ts
           interleaves these runs with ours)
    python3 full_size.py condition --size 480x640 --seeds 1-20
        -> prints how far rounding alone changes the gradients in float32, for each seed. A seed is useful if a wrong
           gradient causes a larger difference.
"""
import argparse
import dataclasses
import json
import os
import re
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "golden"))
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import dsrcnn_torch as R  # noqa: E402
from make_golden import random_target, save_safetensors  # noqa: E402


BEFORE_RELU = re.compile(r"(inst_interact\.norm\d|(cls|reg)_module\.\d+|linear1)\.bias$")


def build(seed, size, objects):
    """Returns configuration, model, image and objects. They depend only on the seed.

    No parameter keeps its special initial value, such as 0 or 1.
    """
    cfg = R.Config()
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    model = R.DynamicSparseRCNN(cfg)
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith("running_var") or (name.endswith("weight") and p.dim() == 1):
                p.copy_(torch.rand(p.shape, generator=g) * 0.5 + 0.75)
            elif p.dim() == 1 and not name.endswith("class_logits.bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.05)
            # Makes head units clearly active or clearly inactive, as most units of trained heads are. For a unit near
            # the kink of a ReLU, rounding alone would decide the side.
            if BEFORE_RELU.search(name):
                p.add_(2.5 * torch.sign(torch.randn(p.shape, generator=g)))
            # Makes the network well-conditioned, as trained networks are. Residual sums do not grow over sixteen
            # blocks, and boxes move only a little from stage to stage.
            if name.endswith("conv3.norm.weight"):
                p.mul_(0.25)
            if name.endswith("bboxes_delta.weight"):
                p.mul_(0.1)
        b = model.proposals.boxes
        b[..., :2] = torch.rand(b[..., :2].shape, generator=g) * 0.6 + 0.2
        b[..., 2:] = torch.rand(b[..., 2:].shape, generator=g) * 0.5 + 0.15
    h, w = size
    coarse = torch.rand(1, 3, h // 16, w // 16, generator=g)
    image = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)[0] * 255
    return cfg, model, image, random_target(g, w, h, cfg.num_classes, objects)


def write(args, size):
    cfg, model, image, target = build(args.seed, size, args.objects)
    os.makedirs(args.folder, exist_ok=True)
    torch.save({"model": model.state_dict()}, os.path.join(args.folder, "checkpoint.pth"))
    out = {"images.0": image, "targets.0.labels": target.labels, "targets.0.boxes": target.boxes}
    with torch.set_grad_enabled(args.gradients):
        single, coordinates, _ = model([image])
    single_gradients = {}
    if args.gradients:
        R.set_loss(single, coordinates, [target], cfg)[0].backward()
        single_gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
    model.double()
    x = image.double()
    target = R.Target(target.labels, target.boxes.double(), target.whwh.double())
    with torch.set_grad_enabled(args.gradients):
        batch, whwh = model.preprocess([x])
        features = model.backbone(batch)
        boxes, proposal = model.proposals(features, 1.0)
        boxes = R.cxcywh_to_xyxy(boxes) * whwh[:, None]
        logits, coords = model.head(features, boxes, proposal)
    for i, f in enumerate(features):
        out[f"features.p{i + 2}"] = f
    for s in range(cfg.num_stages):
        out[f"stage{s}.logits"], out[f"stage{s}.boxes"] = logits[s], coords[s]
    scores, labels, found = R.detect(model, [x])[0]
    out["detect.0.scores"], out["detect.0.labels"], out["detect.0.boxes"] = scores, labels, found
    if args.gradients:
        total, parts, matches = R.set_loss(logits, coords, [target], cfg)
        out["loss.total"] = total
        for s, m in enumerate(matches):
            out[f"stage{s}.match.0"] = torch.stack(m[0])
        total.backward()
        errors = {}
        for name, p in model.named_parameters():
            if p.grad is not None:
                out["grads." + name] = p.grad
                errors[name] = float((single_gradients[name] - p.grad).norm() / p.grad.norm())
        name = max(errors, key=errors.get)
        middle = sorted(errors.values())[len(errors) // 2]
        print(f"gradients: PyTorch's float32 differs by at most {errors[name]:.2e} ({name}), median {middle:.2e}")
    for s in range(cfg.num_stages):
        exact = logits[s].detach()
        error = float((single[s].detach().double() - exact).norm() / exact.norm())
        print(f"stage {s}: PyTorch's float32 logits differ by {error:.2e} (relative L2)")
    out = {k: (v.float() if v.dtype == torch.float64 else v) for k, v in out.items()}
    meta = {
        "seed": args.seed, "sizes": [args.size], "temperature": 1.0, "torch": torch.__version__, "precision": "float64",
    }
    texts = {"config": json.dumps(dataclasses.asdict(cfg)), "meta": json.dumps(meta)}
    save_safetensors(os.path.join(args.folder, "expected.safetensors"), out, texts)


def condition(args, size):
    """Prints the largest relative L2 change of a gradient when every weight changes by about the rounding of float32.

    A few units near the kinks of ReLUs decide this change.
    """
    first, _, last = args.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        cfg, model, image, target = build(seed, size, args.objects)
        weights = [p.detach().clone() for p in model.parameters()]
        g = torch.Generator().manual_seed(seed + 1000)

        def gradients(scale):
            with torch.no_grad():
                for p, w in zip(model.parameters(), weights):
                    p.copy_(w * (1 + scale * torch.randn(w.shape, generator=g)))
            model.zero_grad(set_to_none=True)
            logits, coords, _ = model([image])
            R.set_loss(logits, coords, [target], cfg)[0].backward()
            return logits[-1].detach().clone(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

        logits, plain = gradients(0)
        changes, moved = [], []
        for _ in range(args.runs):
            other, found = gradients(6e-8)
            moved.append(float((other - logits).norm() / logits.norm()))
            changes.append(max(float((a - b).norm() / b.norm()) for a, b in zip(found, plain)))
        listed = ", ".join(f"{c:.1e}" for c in changes)
        print(
            f"seed {seed}: gradients change by at most {max(changes):.2e} ({listed}), logits by {max(moved):.1e}",
            flush=True,
        )


def timed(args, size):
    cfg, model, image, target = build(args.seed, size, args.objects)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-8, weight_decay=1e-4)

    def forward():
        with torch.no_grad():
            model([image])

    def step():
        optimizer.zero_grad()
        logits, coords, _ = model([image])
        loss, _, _ = R.set_loss(logits, coords, [target], cfg)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    run = forward if args.mode == "forward" else step
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print((time.perf_counter() - start) * 1000, flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("what", choices=["write", "time", "condition"])
    a.add_argument("folder", nargs="?", help="for write and time")
    a.add_argument("--size", default="480x640", help="HxW")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument(
        "--objects", type=int, default=40,
        help="many objects, so that no element near the kink of a ReLU has much weight in the gradients",
    )
    a.add_argument("--mode", choices=["forward", "step"], default="forward")
    a.add_argument("--gradients", action="store_true")
    a.add_argument("--seeds", default="1-10", help="condition: FIRST-LAST")
    a.add_argument("--runs", type=int, default=4, help="condition: changed copies of the weights")
    args = a.parse_args()
    if (args.folder is None) != (args.what == "condition"):
        a.error("folder: expected one for write and time, and none for condition")
    size = tuple(int(v) for v in args.size.split("x"))
    {"write": write, "time": timed, "condition": condition}[args.what](args, size)


if __name__ == "__main__":
    main()
