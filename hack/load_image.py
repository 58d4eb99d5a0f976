#!/usr/bin/env python3
"""Load images from the Docker engine into the nodes of a kind cluster, layer by layer.

`kind load docker-image` sends every layer to every node, though most often only the last one has
changed: half a minute for three nodes where two seconds are enough. This sends the layers that at
least one node lacks. What a node has is asked from its containerd every time; nothing is assumed.

Called by hack/up:  load_image.py --nodes NODE... --images IMAGE...
Image names must be complete, with the host part that every one of ours has (asetwin.local/...):
containerd knows no other.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

CTR = ["ctr", "--namespace=k8s.io"]
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 20


class Blob(NamedTuple):
    digest: str
    size: int
    media_type: str

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", nargs="+", required=True, help="names of node containers")
    parser.add_argument("--images", nargs="+", required=True, help="names of images in the engine")
    options = parser.parse_args()

    with ThreadPoolExecutor(len(options.nodes)) as pool:
        present = list(pool.map(lambda node: config_ids(node, options.images), options.nodes))
        wanted = {image: image_id(image) for image in options.images}
        if all(have == wanted for have in present):
            print("every node has them")
            return 0
        stored = pool.map(content_digests, options.nodes)
        everywhere = set.intersection(*stored)
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            write_archive(archive, options.images, omit=everywhere)
            archive.flush()
            list(pool.map(lambda node: import_archive(node, archive.name), options.nodes))
    return 0


# ---------------------------------------------------------------- what is there


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def image_id(image: str) -> str:
    return docker("image", "inspect", "-f", "{{.Id}}", image).strip()


def config_ids(node: str, images: list[str]) -> dict[str, str]:
    """Name → image ID on the node; names that it does not know are left out."""
    listed = json.loads(docker("exec", node, "crictl", "images", "-o", "json"))["images"]
    return {
        tag: entry["id"] for entry in listed for tag in entry.get("repoTags") or [] if tag in images
    }


def content_digests(node: str) -> set[str]:
    return set(docker("exec", node, *CTR, "content", "ls", "-q").split())


# ---------------------------------------------------------------- the archive


def write_archive(file: IO[bytes], images: list[str], *, omit: set[str]) -> None:
    """What `docker save` says, as an OCI archive without the layers in `omit`."""
    saving = subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE)
    assert saving.stdout is not None
    blobs: dict[str, Blob] = {}  # path in docker's archive → what it is
    small: dict[str, bytes] = {}  # path → content, for configurations and docker's own manifest
    aliases: dict[str, str] = {}  # path of a link → the path that holds the layer
    written = set(omit)  # digests that need not, or not again, go into the archive

    with (
        tarfile.open(fileobj=saving.stdout, mode="r|") as saved,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for member in saved:
            if member.issym() or member.islnk():
                aliases[member.name] = resolve(member)
            content = saved.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            with tempfile.SpooledTemporaryFile(max_size=CHUNK) as spool:
                blob = copy_hashed(content, spool)
                if member.name.endswith(".json") or blob.size < CHUNK:
                    spool.seek(0)
                    small[member.name] = spool.read()
                blobs[member.name] = blob
                if is_layer(member.name) and blob.digest not in written:
                    written.add(blob.digest)
                    spool.seek(0)
                    add(archive, blob_path(blob.digest), spool, blob.size)
        if saving.wait() != 0:
            raise SystemExit(f"docker save {' '.join(images)} failed")
        add_manifests(archive, blobs=blobs, small=small, aliases=aliases, written=written)


def resolve(member: tarfile.TarInfo) -> str:
    """Older engines save a layer that occurs twice as a link: ../OTHER/layer.tar."""
    if member.islnk() or not member.linkname.startswith("../"):
        return member.linkname
    return member.linkname.removeprefix("../")


def is_layer(path: str) -> bool:
    """Both of docker's formats: DIRECTORY/layer.tar, and blobs/sha256/DIGEST."""
    return path.endswith("/layer.tar") or path.startswith("blobs/sha256/")


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> Blob:
    digest, size, start = hashlib.sha256(), 0, b""
    while chunk := source.read(CHUNK):
        start = start or chunk[:2]
        digest.update(chunk)
        target.write(chunk)
        size += len(chunk)
    media_type = f"{LAYER_TYPE}+gzip" if start == GZIP_MAGIC else LAYER_TYPE
    return Blob(f"sha256:{digest.hexdigest()}", size, media_type)


def add_manifests(
    archive: tarfile.TarFile,
    *,
    blobs: dict[str, Blob],
    small: dict[str, bytes],
    aliases: dict[str, str],
    written: set[str],
) -> None:
    """Write configurations, manifests and index: one entry per name."""
    entries = []

    def put(content: bytes, media_type: str) -> Blob:
        blob = Blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), media_type)
        if blob.digest not in written:
            written.add(blob.digest)
            add(archive, blob_path(blob.digest), io.BytesIO(content), blob.size)
        return blob

    for image in json.loads(small["manifest.json"]):
        layers = [blobs[aliases.get(path, path)] for path in image["Layers"]]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": put(small[image["Config"]], CONFIG_TYPE).descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        }
        described = put(json.dumps(manifest).encode(), MANIFEST_TYPE)
        for tag in image["RepoTags"]:
            annotations = {"io.containerd.image.name": tag}
            entries.append({**described.descriptor(), "annotations": annotations})
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
    for path, value in (("index.json", index), ("oci-layout", {"imageLayoutVersion": "1.0.0"})):
        content = json.dumps(value).encode()
        add(archive, path, io.BytesIO(content), len(content))


def blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def add(archive: tarfile.TarFile, path: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(path)
    member.size = size
    archive.addfile(member, content)


# ---------------------------------------------------------------- the nodes


def import_archive(node: str, path: str) -> None:
    # NB: opened anew for each node; readers would share one position otherwise.
    with open(path, "rb") as content:
        command = [*CTR, "images", "import", "--all-platforms", "-"]
        subprocess.run(
            ["docker", "exec", "-i", node, *command], check=True, stdin=content, stdout=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(main())
