"""A container as podman and checkpointctl describe it in a checkpoint archive.

config.dump is podman's ContainerConfig (libpod/container_config.go), of which the others
read a part; podman takes spec.dump for the OCI configuration and adds what it makes itself.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

from torpor.container import RUN_ROOT
from torpor.lease import BRIDGE, Lease
from torpor.oci_config import Config

EPOCH = "1970-01-01T00:00:00Z"
_RUNTIME = "runc"  # who dumped it restores it
_LOG = "k8s-file"
_TIMEOUT_S = 10


@dataclass(frozen=True)
class Origin:
    """Where a container comes from. base is the image that its root file system began with, as
    peers know it: a name and an ID, both empty where there is none.
    """

    name: str
    base: str
    base_id: str
    created: str  # RFC 3339
    taken_s: float


def config_dump(origin: Origin, config: Config, lease: Lease | None) -> dict[str, Any]:
    identity = f"{origin.name} {origin.taken_s}"
    taken = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(origin.taken_s))
    process = config.get("process") or {}
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest(),
        "name": origin.name,
        "runtime": _RUNTIME,
        "createdTime": origin.created,
        "checkpointedTime": taken,
        "RawImageName": origin.base,
        "rootfsImageName": origin.base,
        "rootfsImageID": origin.base_id,
        "idMappingsOptions": _ids(config),
        "command": list(process.get("args") or ()),
        "stopSignal": 15,
        "stopTimeout": _TIMEOUT_S,
        "logDriver": _LOG,
        "cgroupsMode": "enabled",
        "shmSize": 65536000,
        "passwd": False,
        **_network(lease),
    }


def _ids(config: Config) -> dict[str, Any]:
    linux = config.get("linux") or {}
    maps = {
        key: [
            {"container_id": one["containerID"], "host_id": one["hostID"], "size": one["size"]}
            for one in linux.get(f"{word}Mappings") or []
        ]
        for key, word in (("UIDMap", "uid"), ("GIDMap", "gid"))
    }
    has_none = not any(maps.values())
    return {"HostUIDMapping": has_none, "HostGIDMapping": has_none, **maps}


def _network(lease: Lease | None) -> dict[str, Any]:
    """A bridge of that name must be one of podman's networks."""
    if lease is None or lease.kind != BRIDGE or lease.mapped:
        return {"createNetNS": False}
    networks = {lease.network: {"interface_name": lease.interface}}
    return {"createNetNS": True, "networkMode": "bridge", "newNetworks": networks}


# CRI-O takes a checkpoint only with this: the annotations that the container had from Kubernetes.
_OF_CRIO = "io.kubernetes.cri-o.Annotations"
# By this checkpointctl reads the rest as what podman writes (getContainerInfo()).
_AS_OF_PODMAN = {"io.container.manager": "libpod"}


def spec_dump(config: Config) -> Config:
    """config without what only torpor makes, and without this host's hooks and cgroups."""
    linux = {key: value for key, value in config["linux"].items() if key != "cgroupsPath"}
    linux["namespaces"] = [{"type": one["type"]} for one in linux.get("namespaces") or []]
    mounts = [
        one
        for one in config.get("mounts") or []
        if not str(one.get("source")).startswith(f"{RUN_ROOT}/")
    ]
    kept = {key: value for key, value in config.items() if key not in ("hooks", "linux", "mounts")}
    annotations = {_OF_CRIO: "{}", **(config.get("annotations") or {}), **_AS_OF_PODMAN}
    return {**kept, "annotations": annotations, "mounts": mounts, "linux": linux}


def network_status(lease: Lease | None) -> dict[str, Any]:
    """The interfaces of each network (StatusBlock of containers/common)."""
    if lease is None:
        return {}
    pairs = ((lease.address, lease.gateway), (lease.address6, lease.gateway6))
    subnets = [{"ipnet": address, "gateway": gateway} for address, gateway in pairs if address]
    interface = {"subnets": subnets, "mac_address": lease.mac}
    return {lease.network: {"interfaces": {lease.interface: interface}}}


# What podman makes for each container, and what is in it here.
_FILES = {
    "/etc/hosts": b"127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "/etc/hostname": b"",
    "/etc/resolv.conf": b"",
    "/run/.containerenv": b"",
}
_SHM = "/dev/shm"
_OWN = "/userdata/"  # where podman has them, in the end of the directory's name


def bundle_of(spec: Config, directory: str) -> tuple[Config, dict[str, bytes]]:
    """A bundle's config.json of podman's spec.dump, and the files beside it that it mounts.

    directory is where the bundle is to be. Raises ValueError for what cannot be had here.
    """
    files: dict[str, bytes] = {}
    mounts = []
    for mount in spec.get("mounts") or []:
        place, source = str(mount["destination"]), str(mount.get("source"))
        if place == _SHM:  # its content travels as torpor's does
            mounts.append({"destination": place, "type": "tmpfs", "source": "shm"})
        elif place in _FILES and _OWN in source:
            name = place.strip("/").replace("/", "-")
            files[name] = _FILES[place] or f"{spec.get('hostname', '')}\n".encode()
            mounts.append({**mount, "source": f"{directory}/files/{name}"})
        else:
            if "bind" in str(mount.get("options")) and not os.path.exists(source):
                raise ValueError(f"it mounts {source!a} at {place}, which is not here")
            mounts.append(mount)
    _require_no_network(spec)
    return {**spec, "mounts": mounts}, files


def _require_no_network(spec: Config) -> None:
    for one in spec["linux"].get("namespaces") or []:
        if one.get("type") == "network" and one.get("path"):
            raise ValueError("it is in a network of podman's, which torpor does not have")


def is_of_runc(config: Config) -> bool:
    """Whether the runtime that dumped it is torpor's."""
    return config.get("runtime") == _RUNTIME
