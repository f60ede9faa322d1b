"""Follows a model in Kafka and scores views with it in PyTorch, without easq. requirements.txt has the pins.
    python examples/follow.py kafka:9092 easq.model.main easq.model-registry.main views.jsonl"""
import hashlib, json, pathlib, sys
import grpc, torch
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from torch.nn.functional import embedding_bag, linear, relu, softplus
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "proto"))
v1 = grpc.protos("easq/v1/model.proto")  # compiled by grpcio-tools

class Tree(torch.nn.Module):  # parameters under their names: tree.main.gate.weight
    def __init__(self, tensors):
        super().__init__()
        for name in {name.partition(".")[0] for name in tensors}:
            inner = {key[len(name) + 1:]: value for key, value in tensors.items() if key.startswith(name + ".")}
            setattr(self, name, Tree(inner) if inner else torch.nn.Parameter(tensors[name], requires_grad=False))
class Ranker(Tree):
    def forward(self, features, shape, view):
        ids = {sparse["field"]: sparse.get("ids", []) for sparse in view.get("sparse", [])}
        rows = [torch.tensor([int(i) % f.rows for i in ids.get(f.field, [])]).long() for f in features.sparse]
        tables = [getattr(self.embeddings, f.name).weight for f in features.sparse]
        dense = (torch.tensor([view["dense"]]) - self.normalizer.mean) / self.normalizer.std
        means = [embedding_bag(row, table, torch.tensor([0])) for row, table in zip(rows, tables)]  # of no ids: 0
        x = torch.cat([*means, dense.clamp(-5, 5)], 1)
        p, gate, experts, scale = self.projection, self.main.gate, self.main.experts, shape.lora_alpha / shape.lora_rank
        lora = shape.inject_lora * scale * linear(linear(x, p.lora_A.weight), p.lora_B.weight)
        a = softplus(linear(x, p.weight, p.bias) + lora)
        inner = softplus(torch.einsum("ked,nd->nke", experts.hidden.weight, a) + experts.hidden.bias)
        outputs = softplus((inner * experts.output.weight).sum(-1) + experts.output.bias)
        return (relu(linear(a, gate.weight, gate.bias)) * outputs).sum().item()
def check(data, sha256, what):
    if hashlib.sha256(data).digest() != sha256: raise ValueError(f"the SHA-256 of {what} is not the manifest's")
    return data
def read(reader, topic, offset):
    reader.assign([TopicPartition(topic, 0, offset)])
    message = reader.poll(10)
    if not message or message.offset() != offset: raise ValueError(f"no page at offset {offset}")
    return message.value() or b""
def load(record, reader, topic):
    check(record[:-35], record[-32:], "the manifest")  # the digest is its last field
    manifest, tensors = v1.Manifest.FromString(record), {}
    for t in (t for t in manifest.tensors if not t.name.startswith("training.")):
        data = check(b"".join(read(reader, topic, page.offset) for page in t.pages), t.sha256, t.name)
        tensors[t.name] = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(list(t.shape)).double()
    return manifest, Ranker(tensors)

servers, page_topic, registry_topic, views = sys.argv[1:]
views, state, tried = [json.loads(line)["features"] for line in open(views)], {}, None
config = {"bootstrap.servers": servers, "group.id": "ranker", "isolation.level": "read_committed",
          "auto.offset.reset": "error", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
registry, reader = Consumer(config), Consumer(config)
registry.assign([TopicPartition(registry_topic, 0, OFFSET_BEGINNING)])
while True:
    while message := registry.poll(0.2): state[message.key()] = message.value()
    pointer = state.get(b"pin") or state.get(b"production") or b""
    if (record := state.get(b"versions/%d" % v1.VersionPointer.FromString(pointer).version)) in (None, tried): continue
    try:
        manifest, model = load(tried := record, reader, page_topic)
        scores = [model(manifest.features, manifest.shape, view) for view in views]
        print(json.dumps({"version": manifest.version, "scores": scores}), flush=True)
    except ValueError as error: print(f"the version before stays: {error}", file=sys.stderr)
