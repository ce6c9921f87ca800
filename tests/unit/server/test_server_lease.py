"""A server's own lease: from the first proposal of a renewal that was applied."""

from __future__ import annotations

from licraft.server.lease import Lease


def test_there_is_no_lease_before_a_renewal_was_applied() -> None:
    lease = Lease()
    lease.propose(10.0)
    assert not lease.runs(10.0)
    assert lease.remaining_s(10.0) == 0.0


def test_it_runs_from_the_proposal_however_late_the_renewal_is_applied() -> None:
    lease = Lease()
    serial = lease.propose(10.0)
    lease.renewed(serial, 3.0)
    assert lease.runs(12.999)
    assert not lease.runs(13.0)
    assert lease.remaining_s(12.0) == 1.0


def test_an_older_renewal_that_is_applied_late_does_not_shorten_it() -> None:
    lease = Lease()
    first, second = lease.propose(10.0), lease.propose(11.0)
    lease.renewed(second, 3.0)
    lease.renewed(first, 3.0)
    assert lease.remaining_s(11.0) == 3.0


def test_a_renewal_counts_once_and_only_if_it_was_proposed_here() -> None:
    lease = Lease()
    serial = lease.propose(10.0)
    lease.renewed(serial, 3.0)
    lease.renewed(serial, 30.0)
    lease.renewed(serial + 1, 30.0)
    assert lease.until_s == 13.0


def test_a_new_incarnation_has_no_lease_and_knows_no_old_proposals() -> None:
    lease = Lease()
    old = lease.propose(10.0)
    lease.renewed(old, 3.0)
    lease.begin()
    assert not lease.runs(10.0)
    assert lease.propose(20.0) == 1
    lease.renewed(old + 5, 3.0)
    assert not lease.runs(20.0)


def test_it_remembers_a_bounded_number_of_proposals() -> None:
    lease = Lease()
    first = lease.propose(0.0)
    for second in range(1, 200):
        lease.propose(float(second))
    lease.renewed(first, 3.0)
    assert not lease.runs(0.0)
