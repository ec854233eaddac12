"""Writes a golden file for one configuration: weights, inputs, intermediate results, gradients, three training steps.

    apt-get install python3-torch python3-torchvision python3-scipy      (Debian's, with Debian's own /usr/bin/python3)
    python3 make_golden.py OUT.safetensors.gz --seed 1 --set depth=18 stem_channels=16 ... [--sizes 96x128 128x80]
                           [--float64]

README.md in this folder lists the commands of the files that are kept here. The file is a gzipped safetensors file. Its
metadata holds "config" (JSON of dsrcnn_torch.Config) and "meta" (JSON). Tensor names:
  weights.<detectron2 name>      parameters and buffers before training
  images.<b>                     RGB 0..255, (3, h, w)
  targets.<b>.labels / .boxes    int64 (M,) / xyxy pixels (M, 4); M may be 0
  features.p2 .. features.p5     FPN outputs
  experts                        softmax weights (B, E, N), with dpg only
  proposals.boxes / .features    initial boxes, xyxy pixels (B, N, 4); features (B, N, d)
  stage<s>.logits / .boxes       s = 0 .. T-1
  stage<s>.match.<b>             int64 (2, P): proposal indices, ground-truth indices
  stage<s>.plan.<b>              ota only: transport plan (M+1, N)
  stage<s>.supply.<b>            ota only: supply of each ground truth (M,)
  loss.<part>_<s>, loss.total    weighted
  grads.<name>                   of loss.total, before clipping
  step<i>.loss, .grad_norm       of three AdamW steps on this batch: lr 2.5e-5, betas .9 .999, eps 1e-8, weight decay
                                 1e-4, gradients clipped to total norm 1
  trained.<name>                 weights with a gradient, after the three steps
  detect.<b>.scores / .labels / .boxes    inference with the initial weights, best first
"""
import argparse
import dataclasses
import gzip
import json
import struct

import torch

import dsrcnn_torch as R

NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


def save_safetensors(path, tensors, metadata):
    header, offset, blobs = {"__metadata__": metadata}, 0, []
    for name, t in tensors.items():
        blob = t.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with gzip.GzipFile(path, "wb", compresslevel=9, mtime=0) if path.endswith(".gz") else open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for b in blobs:
            f.write(b)


def random_target(g, w, h, classes, count):
    size = torch.rand(count, 2, generator=g) * 0.5 + 0.15
    corner = torch.rand(count, 2, generator=g) * (1 - size)
    boxes = torch.cat([corner, corner + size], 1) * torch.tensor([w, h, w, h], dtype=torch.float32)
    labels = torch.randint(0, classes, (count,), generator=g)
    return R.Target(labels, boxes, torch.tensor([w, h, w, h], dtype=torch.float32))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--sizes", nargs="*", default=["96x128", "128x80"], help="HxW of each image")
    a.add_argument("--objects", nargs="*", type=int, default=[3, 0])
    a.add_argument("--temperature", type=float, default=5.0)
    a.add_argument("--set", nargs="*", default=[])
    a.add_argument("--float64", action="store_true", help="compute in float64 (matching included), store float32")
    a.add_argument("--light", action="store_true", help="without gradients and training steps, for full-size models")
    args = a.parse_args()
    cfg = R.Config()
    for item in args.set:
        key, value = item.split("=")
        kind = type(getattr(cfg, key))
        setattr(cfg, key, value in ("1", "true", "True") if kind is bool else kind(value))

    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    model = R.DynamicSparseRCNN(cfg)
    with torch.no_grad():                       # move every parameter off its special initial value
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith("running_var") or (name.endswith("weight") and p.dim() == 1):
                p.copy_(torch.rand(p.shape, generator=g) * 0.5 + 0.75)
            elif p.dim() == 1 and not name.endswith("class_logits.bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.05)
        b = model.proposals.boxes
        b[..., :2] = torch.rand(b[..., :2].shape, generator=g) * 0.6 + 0.2
        b[..., 2:] = torch.rand(b[..., 2:].shape, generator=g) * 0.5 + 0.15
    sizes = [tuple(int(v) for v in s.split("x")) for s in args.sizes]
    images = [torch.rand(3, h, w, generator=g) * 255 for h, w in sizes]
    targets = [random_target(g, w, h, cfg.num_classes, n) for (h, w), n in zip(sizes, args.objects)]

    out = {}
    for name, t in list(model.named_parameters()) + list(model.named_buffers()):
        out["weights." + name] = t.detach().clone()
    for i, (im, t) in enumerate(zip(images, targets)):
        out[f"images.{i}"], out[f"targets.{i}.labels"], out[f"targets.{i}.boxes"] = im, t.labels, t.boxes
    if args.float64:
        model.double()
        images = [i.double() for i in images]
        targets = [R.Target(t.labels, t.boxes.double(), t.whwh.double()) for t in targets]

    def run():
        x, whwh = model.preprocess(images)
        features = model.backbone(x)
        boxes, proposal = model.proposals(features, args.temperature)
        boxes = R.cxcywh_to_xyxy(boxes) * whwh[:, None]
        logits, coords = model.head(features, boxes, proposal)
        return features, boxes, proposal, logits, coords

    features, boxes, proposal, logits, coords = run()
    for i, f in enumerate(features):
        out[f"features.p{i + 2}"] = f
    if cfg.dpg != "none":
        out["experts"] = model.proposals.weights(features, args.temperature)
    out["proposals.boxes"], out["proposals.features"] = boxes, proposal
    total, parts, matches = R.set_loss(logits, coords, targets, cfg)
    for s in range(cfg.num_stages):
        out[f"stage{s}.logits"], out[f"stage{s}.boxes"] = logits[s], coords[s]
        for i, (p, q) in enumerate(matches[s]):
            out[f"stage{s}.match.{i}"] = torch.stack([p, q])
            if cfg.matcher == "ota" and len(targets[i].labels):
                with torch.no_grad():
                    cost, iou = R.ota_costs(logits[s][i], coords[s][i], targets[i], cfg)
                    k = R.ota_supply(iou, s + 1, cfg)
                    supply = torch.cat([k, (iou.shape[0] - k.sum())[None]])
                    out[f"stage{s}.supply.{i}"] = k
                    demand = torch.ones_like(cost[0])
                    out[f"stage{s}.plan.{i}"] = R.sinkhorn(
                        cost, supply, demand, cfg.sinkhorn_epsilon, cfg.sinkhorn_iterations
                    )
    for name, v in parts.items():
        out["loss." + name] = v
    out["loss.total"] = total
    for i, (scores, labels, bx) in enumerate(R.detect(model, images)):
        out[f"detect.{i}.scores"], out[f"detect.{i}.labels"], out[f"detect.{i}.boxes"] = scores, labels, bx
    if not args.light:
        total.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                out["grads." + name] = p.grad.clone()
        params = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(params, lr=2.5e-5, weight_decay=1e-4)
        for i in range(3):
            optimizer.zero_grad()
            _, _, _, lg, co = run()
            loss, _, _ = R.set_loss(lg, co, targets, cfg)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            out[f"step{i}.loss"], out[f"step{i}.grad_norm"] = loss.detach(), norm.detach()
        for name, p in model.named_parameters():
            if p.grad is not None:                  # frozen parameters stay as they were
                out["trained." + name] = p.detach()
    out = {k: (v.float() if v.dtype == torch.float64 else v) for k, v in out.items()}
    meta = {"seed": args.seed, "sizes": args.sizes, "temperature": args.temperature, "torch": torch.__version__,
            "precision": "float64" if args.float64 else "float32"}
    save_safetensors(args.out, out, {"config": json.dumps(dataclasses.asdict(cfg)), "meta": json.dumps(meta)})
    size = sum(v.numel() * v.element_size() for v in out.values())
    print(args.out, f"{size / 1e6:.1f} MB", "total loss", float(total))


if __name__ == "__main__":
    main()
