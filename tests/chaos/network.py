"""Each server and each side of clients in a network namespace; any two can be cut apart.

Linux only, with iproute2, nftables and util-linux. `enter_own_world` puts this program into
namespaces of its own (network, mounts, processes), so that whatever is made here has names
that nobody else sees and is gone when the program ends, however it ends. Inside, every
namespace hangs on one bridge, and a cut is a pair of addresses between which the bridge
drops all packets: connections stay open and nothing is heard, as when a cable is pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import product

INSIDE = "LICRAFT_CHAOS_INSIDE"
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


class Network:
    """A namespace for each of `names`, all on one bridge with this program."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{SUBNET}.{i}" for i, name in enumerate(names, 1)}
        _do("mount", "-t", "tmpfs", "tmpfs", "/run")
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
        pairs = [(self.addresses[a], self.addresses[b]) for a, b in product(one, other) if a != b]
        elements = ", ".join(f"{a} . {b}, {b} . {a}" for a, b in pairs)
        _do("nft", "add", "element", "bridge", "chaos", "cut", f"{{ {elements} }}")

    def mend(self) -> None:
        """Everything passes again."""
        _do("nft", "flush", "set", "bridge", "chaos", "cut")


def _do(*command: str, text: str = "") -> None:
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, timeout=_COMMAND_S, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(command)}: {said}")
