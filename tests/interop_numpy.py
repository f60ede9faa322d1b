"""Reads a followed model without easq and scores views with it.

Arguments: the version's folder, views as JSON lines, the scores that easq gave them. Prints what it
found as one JSON object. The forward pass is written from the formulas of the model's documentation, in 64 bits.
"""
import base64
import hashlib
import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

PEFT = "base_model.model."


def softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def tensors_of(folder):
    tensors = load_file(folder / "model.safetensors")
    adapter = load_file(folder / "adapter_model.safetensors")
    return tensors | {name.removeprefix(PEFT): tensor for name, tensor in adapter.items()}


def inputs(tensors, schema, view):
    features = view["features"]
    given = {sparse["field"]: sparse.get("ids", []) for sparse in features.get("sparse", [])}
    parts = []
    for table in schema["sparse"]:
        weight = tensors[f"embeddings.{table['name']}.weight"]
        ids = [int(i) % int(table["rows"]) for i in given.get(table["field"], [])]
        parts.append(weight[ids].mean(0) if ids else np.zeros(weight.shape[1]))
    dense = np.array(features["dense"], np.float32).astype(np.float64)
    dense = (dense - tensors["normalizer.mean"]) / tensors["normalizer.std"]
    return np.concatenate([*parts, np.clip(dense, -5, 5)])


def score(tensors, shape, x, lora):
    h = tensors["projection.weight"] @ x + tensors["projection.bias"]
    if lora:
        scale = shape["loraAlpha"] / shape["loraRank"]
        h = h + scale * tensors["projection.lora_B.weight"] @ (tensors["projection.lora_A.weight"] @ x)
    a = softplus(h)
    gates = np.maximum(tensors["main.gate.weight"] @ a + tensors["main.gate.bias"], 0)
    total = 0.0
    for k, gate in enumerate(gates):
        hidden = softplus(tensors["main.experts.hidden.weight"][k] @ a + tensors["main.experts.hidden.bias"][k])
        output = tensors["main.experts.output.weight"][k] @ hidden + tensors["main.experts.output.bias"][k]
        total += gate * softplus(output)
    return total


def main(folder, views, scores):
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    raw = tensors_of(folder)
    listed = {t["name"]: t for t in manifest["tensors"] if not t["name"].startswith("training.")}
    differ = [
        name
        for name, tensor in raw.items()
        if name not in listed
        or hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).digest() != base64.b64decode(listed[name]["sha256"])
    ]
    tensors = {name: tensor.astype(np.float64) for name, tensor in raw.items()}
    shape, schema = manifest["shape"], manifest["features"]
    views = [json.loads(line) for line in open(views)]
    given = [json.loads(line) for line in open(scores)]
    assert [v["impressionId"] for v in views] == [g["impression_id"] for g in given]
    xs = [inputs(tensors, schema, view) for view in views]
    own = np.array([score(tensors, shape, x, shape.get("injectLora", False)) for x in xs])
    bare = np.array([score(tensors, shape, x, False) for x in xs])
    print(
        json.dumps(
            {
                "views": len(views),
                "tensors": len(raw),
                "tensors_missing": sorted(listed.keys() - raw.keys()),
                "digests_that_differ": differ,
                "greatest_difference": float(np.abs(own - [g["score"] for g in given]).max()),
                "lora_share": float(np.abs(own - bare).max()),
            }
        )
    )


main(*sys.argv[1:])
