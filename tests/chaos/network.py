"""Each server and each side of clients in a network namespace; any two can be cut apart.

Linux only, with iproute2, nftables and util-linux. `enter_own_world` puts this program into
namespaces of its own (network, mounts, processes), so that whatever is made here has names
that nobody else sees and is gone when the program ends, however it ends. Inside, every
namespace hangs on one bridge, and a cut is an ordered pair of addresses: what goes from the
first to the second is dropped by the bridge, so that each direction can be cut by itself.
Connections stay open and nothing is heard, as when a cable is pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

INSIDE = "LICRAFT_CHAOS_INSIDE"
Way = tuple[str, str]
"""From whom to whom packets go."""

SUBNET = "10.77.0"
BRIDGE = "bridge0"
_OWN = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_COMMAND_S = 20.0
_RULES = """
table bridge chaos {
  set cut { type ipv4_addr . ipv4_addr; }
  chain forward {
    type filter hook forward priority 0;
    ip saddr . ip daddr @cut drop
  }
}
"""


class NotPossible(Exception):
    """This machine does not let us have network namespaces; the message says why."""


def enter_own_world() -> None:
    """Run this program again in namespaces of its own; NotPossible says why not, if it is not.

    Returns when the program is inside.
    """
    if os.environ.get(INSIDE):
        return
    missing = [tool for tool in ("unshare", "ip", "nft", "mount") if shutil.which(tool) is None]
    if missing:
        what = ", ".join(missing)
        raise NotPossible(f"{what} not found (Debian: apt-get install iproute2 nftables)")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, *_OWN]
    probe = subprocess.run(
        [*command, "ip", "link", "add", "probe0", "type", "bridge"],
        capture_output=True,
        timeout=_COMMAND_S,
        check=False,
    )
    if probe.returncode:
        said = probe.stderr.decode(errors="replace").strip()
        raise NotPossible(f"this machine allows no network namespaces: {said}")
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*command, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


def private() -> str | None:
    """A place for files that goes with the namespaces, however they end; None outside of them."""
    return "/run" if os.environ.get(INSIDE) else None


class Network:
    """A namespace for each of `names`, all on one bridge with this program."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{SUBNET}.{i}" for i, name in enumerate(names, 1)}
        self._dropped: Counter[Way] = Counter()
        # What is made in these places is nobody else's, and gone with this program.
        for place in ("/run", "/dev/shm"):
            _do("mount", "-t", "tmpfs", "tmpfs", place)
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", BRIDGE, "type", "bridge")
        _do("ip", "addr", "add", f"{SUBNET}.254/24", "dev", BRIDGE)
        _do("ip", "link", "set", BRIDGE, "up")
        for i, (name, address) in enumerate(self.addresses.items(), 1):
            _do("ip", "netns", "add", name)
            _do(*f"ip link add port{i} type veth peer name eth0 netns {name}".split())
            _do(*f"ip link set port{i} master {BRIDGE} up".split())
            _do(*f"ip -n {name} addr add {address}/24 dev eth0".split())
            for device in ("eth0", "lo"):
                _do(*f"ip -n {name} link set {device} up".split())
        _do("nft", "-f", "-", text=_RULES)

    def enter(self, name: str) -> list[str]:
        """The beginning of a command that runs in a namespace."""
        return ["ip", "netns", "exec", name]

    def cut(self, one: Iterable[str], other: Iterable[str]) -> None:
        """No packet passes any more between any of one side and any of the other."""
        self.drop(both_ways(one, other))

    def drop(self, ways: Iterable[Way]) -> None:
        """Drop what goes these ways; what is dropped twice passes after it was let pass twice."""
        before = set(self._dropped)
        self._dropped.update(ways)
        self._elements("add", set(self._dropped) - before)

    def let_pass(self, ways: Iterable[Way]) -> None:
        """End a `drop` of these ways."""
        before = set(self._dropped)
        self._dropped -= Counter(ways)
        self._elements("delete", before - set(self._dropped))

    def mend(self) -> None:
        """Everything passes again."""
        self._dropped.clear()
        _do("nft", "flush", "set", "bridge", "chaos", "cut")

    def _elements(self, change: str, ways: set[Way]) -> None:
        if ways:
            pairs = [(self.addresses[one], self.addresses[other]) for one, other in sorted(ways)]
            elements = ", ".join(f"{a} . {b}" for a, b in pairs)
            _do("nft", change, "element", "bridge", "chaos", "cut", f"{{ {elements} }}")


def one_way(sources: Iterable[str], targets: Iterable[str]) -> list[Way]:
    """The ways from any of the sources to any of the targets."""
    return [(a, b) for a, b in product(sources, targets) if a != b]


def both_ways(one: Iterable[str], other: Iterable[str]) -> list[Way]:
    """The ways between any of one side and any of the other."""
    one, other = list(one), list(other)
    return one_way(one, other) + one_way(other, one)


def _do(*command: str, text: str = "") -> None:
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, timeout=_COMMAND_S, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(command)}: {said}")
