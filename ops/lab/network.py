"""The network of a lab: a namespace with a bridge, a cable to the machine, a cable to every host.

    machine --[lh-<lab> .1]----[machine]-- bridge --[web1]----[eth0 .21]-- host web1

A *sealed* lab keeps the addresses of its inventory, which are those of real hosts somewhere. So it has no cable to the
machine: the bridge's namespace itself has the gateways' addresses and forwards between the subnets. A process reaches
the hosts only from inside that namespace (`within`, or nsenter).

The bridge's namespace and the hosts have an unreachable default route, and the machine does not forward for them. The
machine has an unreachable route for 198.18.0.0/15 (RFC 2544, reserved for benchmarks), so that a packet to a host of a
lab that is down is refused and not sent out. For a lab that is up, the kernel is the record of its block: the address
on its cable.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.errors import Exit, Failure
from ops.lab.place import LABS, NETNS, Place, port_name
from ops.lab.shell import run

RANGE = ipaddress.IPv4Network("198.18.0.0/15")
BRIDGE = "lab0"
SHORTEST_PREFIX = 8
MACHINE_PORT = "machine"
CLIENTS_FROM = 200
Block = ipaddress.IPv4Network


@dataclass(frozen=True)
class Wiring:
    """The subnets of a lab, each with the address of its gateway.

    In a sealed lab, the operators' networks are subnets too, and processes inside use the address `operator`: the hosts
    accept connections from operators only.
    """

    subnets: Mapping[Block, str]
    sealed: bool = False
    operator: str = ""

    @classmethod
    def of_block(cls, block: Block) -> Wiring:
        """A lab with one block; the machine has the gateway's address."""
        return cls({block: gateway(block)})

    @classmethod
    def of_sites(cls, sites: Sequence[str], operators: Sequence[str], taken: Collection[str]) -> Wiring:
        """A sealed lab with these networks; `taken` are addresses of hosts, which no gateway may have."""
        # Networks as wide as 0.0.0.0/0 are left out: they contain the gateways of the sites anyway.
        narrow = [text for text in operators if ipaddress.IPv4Network(text).prefixlen >= SHORTEST_PREFIX]
        subnets: dict[Block, str] = {}
        for network in (ipaddress.IPv4Network(text) for text in (*sites, *narrow)):
            # From the highest address down; the very highest is for broadcasts.
            numbers = range(network.num_addresses - 2, 0, -1)
            addresses = (str(network.network_address + number) for number in numbers)
            subnets[network] = next(address for address in addresses if address not in taken)
        return cls(subnets, sealed=True, operator=subnets[ipaddress.IPv4Network([*narrow, sites[0]][0])])

    @property
    def first(self) -> Block:
        """The subnet of the clients' addresses; its gateway has the package cache."""
        return next(iter(self.subnets))

    @property
    def gateway(self) -> str:
        """The address of the first gateway."""
        return self.subnets[self.first]

    def subnet_of(self, address: str) -> Block:
        """The subnet of an address. Raises Failure if the address is in none of the subnets."""
        found = ipaddress.IPv4Address(address)
        for subnet in self.subnets:
            if found in subnet:
                return subnet
        raise Failure(
            f"{address} is in none of the networks {', '.join(map(str, self.subnets))}.",
            "Correct site_subnets or the address in the inventory.",
            Exit.BAD_CONFIGURATION,
        )


def _links(*selection: str) -> list[dict[str, Any]]:
    """What `ip -json` says about the machine's own interfaces or routes."""
    said = run(["ip", "-json", *selection], check=False)
    links: list[dict[str, Any]] = json.loads(said or "[]")
    return links


def block_of(place: Place) -> Block | None:
    """The block of a lab whose network is up, else None."""
    for link in _links("-4", "address", "show", "dev", place.cable):
        for address in link.get("addr_info", []):
            return ipaddress.IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
    return None


def blocks_in_use() -> dict[Block, str]:
    """Blocks of the benchmark range that the machine has an address in or a route to: block -> interface."""
    used: dict[Block, str] = {}
    for link in _links("-4", "address", "show"):
        for address in link.get("addr_info", []):
            network = ipaddress.IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
            used.update(dict.fromkeys(_blocks_of(network), link["ifname"]))
    for route in _links("-4", "route", "show"):
        if route["dst"] != "default" and "dev" in route:
            used.update(dict.fromkeys(_blocks_of(ipaddress.IPv4Network(route["dst"])), route["dev"]))
    return used


def _blocks_of(network: ipaddress.IPv4Network) -> list[Block]:
    """The blocks of the range that overlap with a network."""
    if not network.overlaps(RANGE):
        return []
    if network.prefixlen >= 24:
        return [network.supernet(new_prefix=24)]
    return list((network if network.subnet_of(RANGE) else RANGE).subnets(new_prefix=24))


def choose_block(wanted: Block, used: dict[Block, str]) -> Block:
    """The wanted block if it is free, else the next free one of the range.

    A block outside the range belongs to real hosts, so a block of the range is used in its place. Raises Failure if
    none of the 512 blocks is free.
    """
    every = list(RANGE.subnets(new_prefix=24))
    start = every.index(wanted) if wanted.subnet_of(RANGE) else 0
    for block in every[start:] + every[:start]:
        if block not in used:
            return block
    raise Failure(
        f"All {len(every)} blocks of {RANGE} are in use: there is no address left for another lab.",
        f"Destroy a lab that nobody needs: ls {LABS}; LONGHAUL_LAB=NAME ./inv lab.destroy --yes",
        Exit.UNAVAILABLE,
    )


def gateway(block: Block) -> str:
    """The machine's own address in the lab."""
    return str(block.network_address + 1)


def raise_network(place: Place, wiring: Wiring) -> None:
    """Makes the lab's namespace, bridge and cable, and the machine's unreachable route, if they are missing."""
    inside = _raise_bridge(place)
    if wiring.sealed:
        _raise_gateways(place, wiring)
        return
    # Its metric makes it the last choice: a route that the machine already has for these addresses comes first.
    run(["ip", "route", "replace", "unreachable", str(RANGE), "metric", str(2**31)])
    if not _exists(place.netns, MACHINE_PORT):
        run(["ip", "link", "add", place.cable, "type", "veth", "peer", "name", MACHINE_PORT, "netns", place.netns])
    run([*inside, "link", "set", MACHINE_PORT, "master", BRIDGE, "up"])
    run(["ip", "address", "replace", f"{wiring.gateway}/{wiring.first.prefixlen}", "dev", place.cable])
    run(["ip", "link", "set", place.cable, "up"])


def _raise_bridge(place: Place) -> list[str]:
    """Makes the namespace with the bridge; returns the beginning of an `ip` command there."""
    if not (NETNS / place.netns).exists():
        run(["ip", "netns", "add", place.netns])
    inside = ["ip", "-netns", place.netns]
    if not _exists(place.netns, BRIDGE):
        run([*inside, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"])
    run([*inside, "link", "set", BRIDGE, "up"])
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "route", "replace", "unreachable", "default"])
    return inside


def _raise_gateways(place: Place, wiring: Wiring) -> None:
    """Gives the namespace of a sealed lab the gateways' addresses, and lets it forward between the subnets."""
    inside = ["ip", "-netns", place.netns]
    for subnet, address in wiring.subnets.items():
        run([*inside, "address", "replace", f"{address}/{subnet.prefixlen}", "dev", BRIDGE])
    for subnet in wiring.subnets:
        # Processes in this namespace use the operators' address towards all hosts.
        if ipaddress.IPv4Address(wiring.operator) not in subnet:
            run([*inside, "route", "replace", str(subnet), "dev", BRIDGE, "src", wiring.operator])
    run(["ip", "netns", "exec", place.netns, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"])


def is_up(place: Place) -> bool:
    """Whether the lab has a network."""
    return (NETNS / place.netns).exists()


@contextlib.contextmanager
def within(place: Place) -> Iterator[None]:
    """In the block, this thread is in the lab's network namespace. Other threads are not affected."""
    with Path("/proc/thread-self/ns/net").open() as own, (NETNS / place.netns).open() as there:
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(own.fileno(), os.CLONE_NEWNET)


def _exists(netns: str, link: str) -> bool:
    return bool(run(["ip", "-netns", netns, "-brief", "link", "show", "dev", link], check=False).strip())


def has_port(place: Place, name: str) -> bool:
    """Whether the host or client has a port on the bridge, plugged in or not."""
    return (NETNS / place.netns).exists() and _exists(place.netns, port_name(name))


def drop_network(place: Place) -> None:
    """Removes everything that `raise_network`, `attach` and the faults made, as far as it exists."""
    for netns in sorted(NETNS.glob(f"{place.netns}.*")):
        run(["ip", "netns", "delete", netns.name], check=False)
    run(["ip", "link", "delete", place.cable], check=False)
    if (NETNS / place.netns).exists():
        run(["ip", "netns", "delete", place.netns])


def attach(place: Place, netns: str, name: str, address: str, wiring: Wiring) -> None:
    """Makes the namespace `netns` with one interface, eth0, which is connected to the bridge port of `name`."""
    detach(place, netns, name)
    port = port_name(name)
    subnet = wiring.subnet_of(address)
    way_out = f"default via {wiring.subnets[subnet]}" if wiring.sealed else "unreachable default"
    mac = "02:4c:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)
    run(["ip", "netns", "add", netns])
    peer = ["type", "veth", "peer", "name", "eth0", "address", mac, "netns", netns]
    run(["ip", "link", "add", port, "netns", place.netns, *peer])
    run(["ip", "-netns", place.netns, "link", "set", port, "master", BRIDGE, "up"])
    run(
        ["ip", "-netns", netns, "-batch", "-"],
        text=(
            "link set lo up\n"
            # No IPv6 address: it would become valid a second or two after the interface is up, and a browser that sees
            # an address change closes all its connections.
            "link set eth0 addrgenmode none\n"
            f"address add {address}/{subnet.prefixlen} broadcast {subnet.broadcast_address} dev eth0\n"
            "link set eth0 up\n"
            f"route add {way_out}\n"
        ),
    )


def detach(place: Place, netns: str, name: str) -> None:
    """Removes the port and the namespace, which would still answer for the addresses of a host that is off."""
    if has_port(place, name):
        run(["ip", "-netns", place.netns, "link", "delete", port_name(name)], check=False)
    if (NETNS / netns).exists():
        run(["ip", "netns", "delete", netns])


def set_link(place: Place, name: str, up: bool) -> None:
    """Plugs the host's cable into the bridge (`up`) or pulls it out: the host sees that its carrier is lost."""
    run(["ip", "-netns", place.netns, "link", "set", port_name(name), "up" if up else "down"])


def ports_down(place: Place) -> set[str]:
    """The bridge ports whose cables are pulled out."""
    if not (NETNS / place.netns).exists():
        return set()
    said = run(["ip", "-netns", place.netns, "-json", "link", "show", "master", BRIDGE], check=False)
    return {link["ifname"] for link in json.loads(said or "[]") if "UP" not in link["flags"]}


_RATE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kKmMgG]?)(?P<what>B|bit)(/s|ps)?")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def bits_per_second(rate: str) -> int:
    """Reads a rate: `5KB` is 5,000 bytes a second, `10mbit` ten million bits a second.

    Raises Failure for anything else, and for less than 1 kbit/s.
    """
    match = _RATE.fullmatch(rate.strip())
    if match:
        bits = float(match["number"]) * _SCALE[match["unit"].lower()] * (8 if match["what"] == "B" else 1)
        if bits >= 1000:
            return round(bits)
    raise Failure(f"{rate!r} is not a rate.", "Write 5KB for 5,000 bytes a second, or 10mbit.", Exit.USAGE)


def shape(place: Place, netns: str, name: str, rate: str) -> None:
    """Limits the line of a host or client to `rate` in each direction."""
    bits = bits_per_second(rate)
    # A bucket smaller than two full packets would let no packet through; one larger than 10 ms of the line would allow
    # bursts that a slow line does not have.
    burst = max(3000, bits // 8 // 100)
    limit = ["root", "tbf", "rate", f"{bits}bit", "burst", str(burst), "latency", "800ms"]
    run(["tc", "-netns", place.netns, "qdisc", "replace", "dev", port_name(name), *limit])
    run(["tc", "-netns", netns, "qdisc", "replace", "dev", "eth0", *limit])


def unshape(place: Place, netns: str, name: str) -> None:
    """Removes the limit, if there is one."""
    run(["tc", "-netns", place.netns, "qdisc", "delete", "dev", port_name(name), "root"], check=False)
    run(["tc", "-netns", netns, "qdisc", "delete", "dev", "eth0", "root"], check=False)


def _nft(place: Place, commands: str) -> None:
    run(["ip", "netns", "exec", place.netns, "nft", "-f", "-"], text=commands)


def partition(place: Place, one: str, other: str) -> None:
    """Drops every frame between two hosts, both ways. Both still reach all others."""
    a, b = port_name(one), port_name(other)
    _nft(
        place,
        "add table bridge longhaul\n"
        "add chain bridge longhaul forward { type filter hook forward priority 0; policy accept; }\n"
        "add set bridge longhaul apart { type ifname . ifname; }\n"
        "flush chain bridge longhaul forward\n"
        "add rule bridge longhaul forward iifname . oifname @apart drop\n"
        f'add element bridge longhaul apart {{ "{a}" . "{b}", "{b}" . "{a}" }}\n',
    )


def heal_partitions(place: Place) -> None:
    """Lets all hosts see each other again."""
    with contextlib.suppress(Failure):  # there was no partition
        _nft(place, "delete table bridge longhaul\n")


def clients(place: Place) -> dict[str, str]:
    """The clients of the lab that exist now: name -> address."""
    prefix = place.client_netns("")
    found = {}
    for path in sorted(Path(NETNS).glob(f"{prefix}*")):
        said = run(["ip", "-netns", path.name, "-json", "-4", "address", "show", "dev", "eth0"], check=False)
        for link in json.loads(said or "[]"):
            for address in link.get("addr_info", []):
                found[path.name.removeprefix(prefix)] = address["local"]
    return found


def free_client_address(place: Place, wiring: Wiring, taken: set[str]) -> str:
    """An address for one more client: from .200 on, not of a host or gateway and not of another client."""
    block = wiring.first
    used = {*taken, *wiring.subnets.values(), *clients(place).values()}
    for number in range(CLIENTS_FROM, min(255, block.num_addresses - 1)):
        address = str(block.network_address + number)
        if address not in used:
            return address
    raise Failure(
        "The lab has no address left for another client.",
        "Remove one: ./inv lab.client NAME --remove",
        Exit.UNAVAILABLE,
    )
