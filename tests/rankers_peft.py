"""Loads a followed version into plain PyTorch modules, its LoRA with the peft library, and scores.

Arguments: the version's folder, views as JSON lines. Prints a JSON object: the scores with the
adapter, and those of the base without it.
"""
import json
import pathlib
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import relu, softplus


class Leaves(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


class Experts(nn.Module):
    def __init__(self, k, e, d):
        super().__init__()
        self.hidden = Leaves(weight=(k, e, d), bias=(k, e))
        self.output = Leaves(weight=(k, e), bias=(k,))

    def forward(self, a):
        inner = softplus(torch.einsum("ked,nd->nke", self.hidden.weight, a) + self.hidden.bias)
        return softplus((inner * self.output.weight).sum(-1) + self.output.bias)


class Head(nn.Module):
    def __init__(self, k, e, d):
        super().__init__()
        self.gate = nn.Linear(d, k)
        self.experts = Experts(k, e, d)

    def forward(self, h):
        a = softplus(h)
        return (relu(self.gate(a)) * self.experts(a)).sum(-1)


class Base(nn.Module):
    """Everything but LoRA; strict about names and shapes."""

    def __init__(self, features, shape):
        super().__init__()
        self.tables, dense = features["sparse"], len(features["dense"])
        d, e = shape["hiddenDim"], shape["expertDim"]
        self.embeddings = nn.ModuleDict(
            {t["name"]: nn.EmbeddingBag(int(t["rows"]), t["dim"], mode="mean") for t in self.tables}
        )
        self.normalizer = Leaves(mean=(dense,), std=(dense,))
        self.projection = nn.Linear(sum(t["dim"] for t in self.tables) + dense, d)
        self.main = Head(shape["mainExperts"], e, d)
        self.satisfaction = Head(shape["satisfactionExperts"], e, d)

    def forward(self, view):
        given = {sparse["field"]: sparse.get("ids", []) for sparse in view.get("sparse", [])}
        parts = []
        for table in self.tables:
            ids = [int(i) % int(table["rows"]) for i in given.get(table["field"], [])]
            # A bag that begins at 0; of no ids it is 0.
            bag = self.embeddings[table["name"]]
            parts.append(bag(torch.tensor(ids, dtype=torch.long), torch.tensor([0])))
        dense = (torch.tensor([view["dense"]]) - self.normalizer.mean) / self.normalizer.std
        return self.main(self.projection(torch.cat([*parts, dense.clamp(-5, 5)], 1)))


def main(folder, views):
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shape"]["injectLora"]
    views = [json.loads(line)["features"] for line in open(views)]
    base = Base(manifest["features"], manifest["shape"])
    base.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        bare = [base.double()(view).item() for view in views]
        adapted = PeftModel.from_pretrained(base, folder).double()
        scores = [adapted(view).item() for view in views]
    print(json.dumps({"scores": scores, "bare": bare}))


main(*sys.argv[1:])
