"""Reads the current version of a followed folder over and over, as a ranker does, without easq.

Arguments: the folder, and how many versions its follower keeps. Ends when its standard input does, and
prints what it found as one JSON object; on the first version that is not whole it fails and says why.

`current` is resolved once per version: the files are opened below the folder that it named then.
"""
import base64
import hashlib
import json
import mmap
import os
import select
import sys

PEFT = "base_model.model."
FOLDER, KEPT = sys.argv[1], int(sys.argv[2])
# Most of the time it reads, and leaves the follower some.
BETWEEN_LOOKS_SECONDS = 0.001


class Torn(Exception):
    pass


def read(folder, name):
    file = os.open(name, os.O_RDONLY, dir_fd=folder)
    with os.fdopen(file, "rb") as file:
        return file.read()


def tensors_of(data, prefix=""):
    """Names and bytes of the tensors in a safetensors file, which must fill it."""
    if len(data) < 8:
        raise Torn(f"a file of {len(data)} bytes")
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__")
    if start + max((tensor["data_offsets"][1] for tensor in header.values()), default=0) != len(data):
        raise Torn(f"a file of {len(data)} bytes, which is not what its header says")
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        yield name.removeprefix(prefix), data[start + begin:start + end]


def version_in(folder):
    """The version whose files are in an open folder, all of them checked against its manifest."""
    manifest = json.loads(read(folder, "manifest.json"))
    config = json.loads(read(folder, "adapter_config.json"))
    found = dict(tensors_of(read(folder, "model.safetensors")))
    found |= dict(tensors_of(read(folder, "adapter_model.safetensors"), PEFT))
    named = {t["name"]: t for t in manifest["tensors"] if not t["name"].startswith("training.")}
    if found.keys() != named.keys():
        raise Torn(f"the tensors {sorted(found)}, and the manifest has {sorted(named)}")
    for name, data in found.items():
        if hashlib.sha256(data).digest() != base64.b64decode(named[name]["sha256"]):
            raise Torn(f"tensor {name} is not that of the manifest")
    if config["r"] != manifest["shape"]["loraRank"]:
        raise Torn("the adapter's configuration is that of another version")
    return int(manifest["version"])


def number(target):
    return int(os.path.basename(target).partition("-")[0])


class Held:
    """A version's model that stays mapped, as it does in a ranker that serves it."""

    def __init__(self, folder):
        with os.fdopen(os.open("model.safetensors", os.O_RDONLY, dir_fd=folder), "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.digest = hashlib.sha256(self.map).digest()

    def check(self):
        if hashlib.sha256(self.map).digest() != self.digest:
            raise Torn("a model that was mapped has changed")


def look(seen, held):
    target = os.readlink(os.path.join(FOLDER, "current"))
    if number(target) < seen["newest"]:
        raise Torn(f"current is {target} after version {seen['newest']}")
    try:
        folder = os.open(os.path.join(FOLDER, target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            version = version_in(folder)
            if version > seen["newest"] and seen["versions"] % 100 == 0:
                held.append(Held(folder))
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        now = os.readlink(os.path.join(FOLDER, "current"))
        if number(now) < number(target) + KEPT:
            raise Torn(f"{error} in {target}, and current is {now}") from error
        seen["overtaken"] += 1
        return
    if version != number(target):
        raise Torn(f"version {version} in {target}")
    seen["versions"] += version > seen["newest"]
    seen["newest"] = version
    seen["whole"] += 1


seen, held = {"whole": 0, "versions": 0, "overtaken": 0, "newest": 0}, []
try:
    while not select.select([sys.stdin], [], [], BETWEEN_LOOKS_SECONDS)[0]:
        look(seen, held)
    look(seen, held)
    for model in held:
        model.check()
except Torn as torn:
    sys.exit(f"not whole: {torn}")
print(json.dumps(seen))
