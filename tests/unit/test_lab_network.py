"""Addresses and rates of a lab: what is worked out without touching the network."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from ops.errors import Exit, Failure
from ops.lab import network
from ops.lab.place import INTERFACE_LENGTH, Place, port_name

WANTED = IPv4Network("198.18.0.0/24")
EVERY = list(network.RANGE.subnets(new_prefix=24))


def test_a_free_block_is_taken_as_it_is() -> None:
    assert network.choose_block(WANTED, {}) == WANTED


def test_the_next_free_block_stands_in_for_a_used_one() -> None:
    used = {WANTED: "lh-lab", IPv4Network("198.18.1.0/24"): "the lab other"}
    assert network.choose_block(WANTED, used) == IPv4Network("198.18.2.0/24")


def test_the_search_goes_round_the_end_of_the_range() -> None:
    assert network.choose_block(EVERY[-1], {EVERY[-1]: "lh-lab"}) == EVERY[0]


def test_the_last_free_block_is_found() -> None:
    used = dict.fromkeys(EVERY, "lh-x")
    del used[EVERY[300]]
    assert network.choose_block(WANTED, used) == EVERY[300]


def test_no_free_block_is_told_with_what_to_do() -> None:
    with pytest.raises(Failure, match="All 512 blocks") as caught:
        network.choose_block(WANTED, dict.fromkeys(EVERY, "lh-x"))
    assert caught.value.code == Exit.UNAVAILABLE
    assert "lab.destroy" in caught.value.hint


def test_a_block_of_real_addresses_is_never_used_in_a_lab() -> None:
    assert network.choose_block(IPv4Network("192.0.2.0/24"), {}).subnet_of(network.RANGE)


def test_addresses_and_routes_of_the_machine_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "address": [
            {"ifname": "lh-lab", "addr_info": [{"local": "198.18.3.1", "prefixlen": 24}]},
            {"ifname": "eth0", "addr_info": [{"local": "192.0.2.2", "prefixlen": 24}]},
            {"ifname": "lo", "addr_info": []},
            {"ifname": "tun0", "addr_info": [{"local": "198.18.5.77", "prefixlen": 32}]},
        ],
        "route": [
            {"dst": "default", "dev": "eth0"},
            {"dst": "198.18.8.0/23", "dev": "vpn0"},
            {"dst": "198.18.9.9", "dev": "vpn1"},
            {"type": "unreachable", "dst": "198.18.0.0/15"},
        ],
    }
    monkeypatch.setattr(network, "_links", lambda *words: answers[words[1]])
    assert {str(block): name for block, name in network.blocks_in_use().items()} == {
        "198.18.3.0/24": "lh-lab",
        "198.18.5.0/24": "tun0",
        "198.18.8.0/24": "vpn0",
        "198.18.9.0/24": "vpn1",
    }


def test_a_network_around_the_range_uses_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    route = [{"dst": "198.16.0.0/13", "dev": "vpn0"}]
    monkeypatch.setattr(network, "_links", lambda *words: route if words[1] == "route" else [])
    assert len(network.blocks_in_use()) == len(EVERY)


@pytest.mark.parametrize(
    ("rate", "bits"),
    [
        ("5KB", 40_000),
        ("5kB", 40_000),
        ("40kbit", 40_000),
        ("1.5MB/s", 12_000_000),
        ("10mbit", 10_000_000),
        ("1Gbit", 10**9),
    ],
)
def test_rates_are_bytes_or_bits(rate: str, bits: int) -> None:
    assert network.bits_per_second(rate) == bits


@pytest.mark.parametrize("rate", ["", "5", "fast", "-5KB", "5KBit/h", "0KB", "1bit"])
def test_other_rates_are_refused(rate: str) -> None:
    with pytest.raises(Failure, match="not a rate"):
        network.bits_per_second(rate)


def test_port_names_fit_and_stay_apart() -> None:
    long = [f"dc2-storage-host-{number}" for number in range(100)]
    ports = {port_name(name) for name in long}
    assert len(ports) == len(long)
    assert max(map(len, ports)) <= INTERFACE_LENGTH
    assert port_name("web1") == "web1"


@pytest.mark.parametrize("name", ["Lab", "1lab", "a" * 13, "a/b", "a b", "a.b", ".."])
def test_names_that_the_kernel_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(Failure, match="not a name for a lab"):
        Place.of(name)


def test_the_setting_names_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGHAUL_LAB", raising=False)
    assert Place.of().name == "lab"
    monkeypatch.setenv("LONGHAUL_LAB", "other")
    assert Place.of().name == "other"
    assert Place.of("third").name == "third"
    assert len(Place.of("a" * 12).cable) <= INTERFACE_LENGTH
