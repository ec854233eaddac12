"""Times PyTorch's training step of one of our configurations by its parts. bench/step.ts starts this process.

    apt-get install python3-torch python3-torchvision python3-scipy      (Debian's, with Debian's own /usr/bin/python3)
    Standard input: a line of JSON (model, batch, height, width, targets, weightDecay, clipNorm), then an empty line
    for each run.
    Standard output: a line {"torch": version} when ready, then for each run a line with the milliseconds of each part.
"""
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch  # noqa: E402

from loss_curve import R, config_of  # noqa: E402


def main():
    setting = json.loads(sys.stdin.readline())
    cfg = config_of(setting["model"])
    model = R.DynamicSparseRCNN(cfg)
    height, width = setting["height"], setting["width"]
    images = [torch.randint(0, 256, (3, height, width)).float() for _ in range(setting["batch"])]
    whwh = torch.tensor([width, height] * 2, dtype=torch.float32)
    targets = [
        R.Target(torch.tensor(t["labels"]), torch.tensor(t["boxes"]).view(-1, 4), whwh) for t in setting["targets"]
    ]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=setting["weightDecay"])
    backbone = 0.0

    def timed_backbone(forward):
        def run(x):
            nonlocal backbone
            start = time.perf_counter()
            out = forward(x)
            backbone = time.perf_counter() - start
            return out
        return run

    model.backbone.bottom_up.forward = timed_backbone(model.backbone.bottom_up.forward)

    def step():
        ms = {}
        begin = last = time.perf_counter()

        def lap(name):
            nonlocal last
            now = time.perf_counter()
            ms[name] = (now - last) * 1000
            last = now

        batch, whwh = model.preprocess(images)
        lap("upload")
        features = model.backbone(batch)
        lap("pyramid")
        ms["backbone"] = backbone * 1000
        ms["pyramid"] -= ms["backbone"]
        boxes, proposal = model.proposals(features, 1.0)
        boxes = R.cxcywh_to_xyxy(boxes) * whwh[:, None]
        lap("proposals")
        logits, coords = model.head(features, boxes, proposal)
        lap("head")
        total = R.set_loss(logits, coords, targets, cfg)[0]
        lap("criterion")
        optimizer.zero_grad()
        total.backward()
        lap("backward")
        if setting["clipNorm"] > 0:
            torch.nn.utils.clip_grad_norm_(parameters, setting["clipNorm"])
        optimizer.step()
        lap("update")
        ms["whole"] = (time.perf_counter() - begin) * 1000
        return ms

    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(step()), flush=True)


if __name__ == "__main__":
    main()
