"""Whatever is installed where, and who fails meanwhile: the greatest number is everywhere."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import fewer

from licraft.testing import InProcessPool, run_virtual
from licraft.vendor.codes import make_code
from licraft.vendor.keys import generate
from licraft.vendor.license_file import parse_license_file
from licraft.wire import CodeRequest, Installed, Problem

pytestmark = pytest.mark.timeout(400)  # a failing example takes a while to shrink

KEY = generate()
SERVERS = ("alpha", "beta", "gamma")

where = st.sampled_from(SERVERS)
numbers = st.integers(1, 12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("install"), where, numbers),
        st.tuples(st.just("code"), where, numbers),
        st.tuples(st.just("put"), where, numbers),
        st.tuples(st.just("reread"), where, numbers),
        st.tuples(st.just("fail"), where, numbers),
        st.tuples(st.just("isolate"), where, numbers),
        st.tuples(st.just("mend"), where, numbers),
        st.tuples(st.just("lead"), where, numbers),
        st.tuples(st.just("wait"), where, numbers),
    ),
    max_size=20,
)


class Play:
    """One history of a pool, and what was promised in it."""

    def __init__(self, pool: InProcessPool) -> None:
        self.pool = pool
        self.promised = 0
        self.codes: set[str] = set()
        self.asking: list[asyncio.Task[Installed | Problem]] = []

    async def step(self, kind: str, name: str, number: int) -> None:
        pool = self.pool
        runs = name in pool.running
        match kind:
            case "install" if runs:
                text = pool.license_text({"cad": number}, sequence=number)
                self._ask(pool.server(name).install_license(text), "")
            case "code" if runs:
                code = make_code(KEY, feature="cad", count=number)
                self._ask(pool.server(name).add_code(CodeRequest(code)), code)
            case "put":
                text = pool.license_text({"cad": number}, sequence=number)
                pool.given_license(name).write_text(text)
            case "reread" if runs:
                pool.server(name).keeper.reread()
            case "fail" if runs:
                pool.crash(name)
            case "isolate":
                pool.log.isolate(name)
            case "mend":
                self.mend()
            case "lead" if runs and pool.log.commits(name):
                pool.log.elect(name)
            case "wait":
                await pool.advance(number / 2)
            case _:
                pass

    def _ask(self, call: object, code: str) -> None:
        async def ask() -> Installed | Problem:
            answer = await call  # type: ignore[misc]  # one of two calls with this answer
            if isinstance(answer, Installed):
                self.promised = max(self.promised, answer.sequence)
            return answer  # type: ignore[no-any-return]  # as above

        self.asking.append(asyncio.get_running_loop().create_task(ask()))

    def mend(self) -> None:
        self.pool.log.heal()
        for name in self.pool.names:
            if name not in self.pool.running:
                self.pool.start(name)

    async def end(self) -> None:
        """All servers come back, each on its own file; in the end all have the greatest."""
        pool = self.pool
        self.mend()
        for name in list(pool.running):
            pool.crash(name)
        self.mend()
        given = [p for p in map(pool.given_license, pool.names) if p.exists()]
        greatest = max((parse_license_file(p.read_text(), ()).sequence for p in given), default=0)
        await pool.until(pool.serving, "all serve")
        await pool.advance(10.0)
        for task in self.asking:
            task.cancel()
        found = {pool.server(name).license().text for name in pool.names}
        assert len(found) == 1
        (text,) = found
        number = pool.server("alpha").license().sequence
        assert number >= max(self.promised, greatest)
        if number:
            on_disk = {(pool.data_dir(name) / "license.yaml").read_text() for name in pool.names}
            assert on_disk == found
        assert len({pool.server(name).pool_machine.digest() for name in pool.names}) == 1
        # Exactly those whose own file has the number and is another are shown as such.
        others = {
            name
            for name in pool.names
            if (path := pool.given_license(name)).exists()
            and parse_license_file(path.read_text(), ()).sequence == number
            and path.read_text() != text
        }
        for name in pool.names:
            assert {c.server for c in pool.server(name).license().conflicts} == others


@fewer(2)
@given(steps)
def test_the_greatest_number_is_everywhere_in_the_end(
    history: list[tuple[str, str, int]],
) -> None:
    async def program() -> None:
        async with InProcessPool(SERVERS, lease_s=1.0, ttl_s=4.0, tick_s=0.1, key=KEY) as pool:
            play = Play(pool)
            for kind, name, number in history:
                await play.step(kind, name, number)
                await pool.advance(0.2)
            await play.end()

    run_virtual(program())
