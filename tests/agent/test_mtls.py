"""The agent's part of mutual TLS: certificates, the proxies before the model servers, and what
stays as it was where there is none.
"""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.agent.certificates import LOOK_S, Certificates
from modelplane.ports.identity import Credentials
from modelplane.resources.certificates import CertificateRequest, IssuedCertificate, Workload
from modelplane.resources.environment import Environment, GatewayMesh
from modelplane.resources.replica import Replica, ReplicaStatus
from modelplane.resources.traffic_split import SplitEndpoint, SplitRemote, SplitVariant
from modelplane.testing.clock import ManualClock
from tests.agent.world import FakeControlPlane, FakeInbound, World

INBOUND = "inbound-production"


def status(world: World, replica: Replica) -> ReplicaStatus:
    return world.control_plane.read(replica).status


async def start(world: World, mtls: str = "STRICT") -> Replica:
    world.put_environment(mtls=mtls)
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).phase == "Ready")
    return replica


def inbound(world: World) -> FakeInbound:
    return world.inbounds[-1]


def peers(world: World) -> tuple[str, ...]:
    return world.gateway.published[-1].peers


def route_to(world: World, replica: Replica) -> None:
    """Declare a split that names the replica as it was reported last."""
    now = status(world, replica)
    revision = replica.spec.revision
    endpoint = SplitEndpoint(
        replica=replica.metadata.name, address=now.address, identity=now.identity
    )
    variant = SplitVariant(
        revision=revision.digest,
        version=revision.version,
        role="stable",
        weight_pct=100,
        endpoints=(endpoint,),
    )
    world.put_split((revision, 100), variants=(variant,))


async def pass_by(world: World, lives: float) -> None:
    """Let so many lives of a certificate pass, most of it at once."""
    world.clock.step(lives * 3600 - LOOK_S - 1)
    await world.settle(LOOK_S + 1)


async def test_without_mutual_tls_there_is_no_certificate_and_no_second_proxy(
    world: World, tmp_path: Path
) -> None:
    replica = await start(world, "DISABLED")
    assert status(world, replica).address.startswith("unix:")
    assert status(world, replica).identity == ""
    assert world.inbounds == []
    assert world.running("inbound-") == []
    assert world.control_plane.certified == []
    assert world.gateway.credentials is None
    assert not (tmp_path / "ca").exists()


async def test_a_replica_is_reported_behind_the_proxy(world: World) -> None:
    replica = await start(world)
    now = status(world, replica)
    (route,) = inbound(world).routes.values()
    assert now.address == route.address
    assert now.address.startswith("127.0.0.1:")
    assert now.identity.endswith("/environments/production/nodes/local/inbound")
    assert route.socket.endswith(".sock")
    assert inbound(world).gateway.endswith("/environments/production/gateway")
    assert world.running("inbound-") == [INBOUND]
    assert sorted(world.control_plane.certified) == [
        "production/gateway",
        "production/nodes/local/inbound",
    ]
    credentials = world.gateway.credentials
    assert credentials is not None
    assert credentials.identity == inbound(world).gateway
    assert inbound(world).presented[0].identity == now.identity


async def test_no_replica_is_ready_before_the_gateway_can_reach_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelplane.agent.gateways._RETRY_S", 0.01)
    world.put_environment(mtls="STRICT")
    world.control_plane.certifies = False
    replica = world.put_replica()
    world.start_agent()
    await world.until(lambda: status(world, replica).reason == "NotReachable")
    assert status(world, replica).phase == "Starting"
    assert status(world, replica).address == ""
    world.control_plane.certifies = True
    await world.until(lambda: status(world, replica).phase == "Ready")


async def test_a_port_that_somebody_took_is_replaced(world: World) -> None:
    replica = await start(world)
    before = status(world, replica).address
    world.refused_addresses.add(before)
    await world.until(lambda: status(world, replica).address != before)
    assert status(world, replica).phase == "Ready"
    assert [route.address for route in inbound(world).routes.values()] == [
        status(world, replica).address
    ]


async def test_an_agent_that_comes_back_takes_nothing_away(world: World) -> None:
    replica = await start(world)
    before, routes = status(world, replica), inbound(world).routes
    pid = world.machine.entries[INBOUND].process.pid
    await world.kill_agent()
    world.control_plane.set_away(True)
    world.start_agent()
    await world.until(lambda: len(world.inbounds) == 2 and inbound(world).serving)
    assert inbound(world).routes == routes  # known before the proxy can ask
    assert world.machine.entries[INBOUND].process.pid == pid
    assert inbound(world).presented[0] == world.inbounds[0].presented[-1]
    assert world.gateway.credentials is not None
    world.control_plane.set_away(False)
    await world.settle(5)
    assert status(world, replica) == before
    assert len(world.control_plane.certified) == 2, "what is kept is used"


async def test_what_is_kept_is_read_by_its_owner_only(world: World) -> None:
    await start(world)
    kept = world.places.runtime_dir / "identity"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    files = list(kept.iterdir())
    assert {file.name for file in files} == {"production.gateway.json", "production.inbound.json"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    keys = [
        f for f in world.places.agent_dir.rglob("*") if f.is_file() and b"PRIVATE" in f.read_bytes()
    ]
    assert keys == []


async def test_certificates_are_renewed_at_half_their_life(world: World) -> None:
    await start(world)
    first = inbound(world).presented[-1]
    await pass_by(world, 0.3)
    assert inbound(world).presented == [first]
    await pass_by(world, 0.35)
    second = inbound(world).presented[-1]
    assert second.certificate != first.certificate
    assert second.private_key != first.private_key
    assert second.identity == first.identity
    assert world.gateway.credentials is not None
    assert world.gateway.credentials.not_after > first.not_after


async def test_an_absent_control_plane_is_asked_until_it_is_back(world: World) -> None:
    await start(world)
    first = inbound(world).presented[-1]
    world.control_plane.set_away(True)
    await pass_by(world, 0.7)
    assert inbound(world).presented == [first]
    world.control_plane.set_away(False)
    await world.settle(2 * LOOK_S)
    assert inbound(world).presented[-1].not_after > first.not_after


async def test_one_that_is_not_certified_holds_up_no_other(world: World) -> None:
    await start(world)
    assert world.gateway.credentials is not None
    before = world.gateway.credentials.not_after
    world.control_plane.uncertified.add("inbound")
    await pass_by(world, 0.65)
    assert len(inbound(world).presented) == 1
    assert world.gateway.credentials.not_after > before


async def test_nothing_is_kept_for_one_that_was_given_up_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, control_plane = ManualClock(), FakeControlPlane()
    control_plane.authority = FolderAuthority(tmp_path / "ca", clock)
    certificates = Certificates(control_plane, EllipticKeys(), clock, tmp_path / "identity")
    gateway = Workload(environment="production", role="gateway")
    presented: list[Credentials] = []

    async def present(credentials: Credentials) -> None:
        presented.append(credentials)

    await certificates.obtain(gateway)
    certificates.follow(gateway, present)
    certify = control_plane.request_certificate

    async def request_certificate(request: CertificateRequest) -> IssuedCertificate:
        issued = await certify(request)
        certificates.forget(gateway)
        return issued

    monkeypatch.setattr(control_plane, "request_certificate", request_certificate)
    clock.step(0.7 * 3600)
    await certificates.look()
    assert presented == []
    assert list((tmp_path / "identity").iterdir()) == []


async def test_whom_to_trust_is_told_to_all_before_any_new_certificate(world: World) -> None:
    await start(world)
    first = inbound(world).presented[-1]
    authority = world.control_plane.authority
    assert authority is not None
    authority.rotate()
    await world.settle(LOOK_S + 1)
    joined = inbound(world).presented[-1]
    assert joined == replace(first, trusted=joined.trusted)
    assert joined.trusted.count("BEGIN CERTIFICATE") == 2
    assert world.gateway.credentials is not None
    assert world.gateway.credentials.trusted == joined.trusted
    await pass_by(world, 1.0)
    renewed = inbound(world).presented[-1]
    assert renewed.certificate != first.certificate


async def test_a_control_plane_that_began_anew_is_followed(world: World, tmp_path: Path) -> None:
    """As after a restored backup: no key of an authority is in it."""
    replica = await start(world)
    route_to(world, replica)
    old = status(world, replica).identity
    # Nobody has asked this one yet: it knows no authority at all.
    world.control_plane.authority = FolderAuthority(tmp_path / "another", world.clock)
    await world.until(lambda: status(world, replica).identity != old)
    assert peers(world) == (status(world, replica).identity,), "known before a split names it"
    assert inbound(world).presented[-1].identity == status(world, replica).identity
    assert inbound(world).gateway.split("/environments/")[0] in status(world, replica).identity


async def test_a_control_plane_that_began_anew_moves_no_replica(
    world: World, tmp_path: Path
) -> None:
    replica = await start(world)
    later = world.put_replica("fraud-a-1", index=1)
    await world.until(lambda: status(world, later).phase == "Ready")
    old = status(world, replica).identity
    routes = dict(inbound(world).routes)
    world.control_plane.authority = FolderAuthority(tmp_path / "another", world.clock)
    await world.until(lambda: status(world, replica).identity != old)
    await world.settle(3)
    assert inbound(world).routes == routes


async def test_a_stopped_replica_is_listened_for_no_more(world: World) -> None:
    replica = await start(world)
    world.control_plane.put(replica.with_spec(stopped=True))
    await world.until(lambda: status(world, replica).phase == "Stopped")
    assert inbound(world).routes == {}


async def test_a_replica_that_went_while_no_agent_ran_is_listened_for_no_more(
    world: World,
) -> None:
    replica = await start(world)
    await world.kill_agent()
    world.control_plane.remove(world.control_plane.read(replica))
    world.start_agent()
    await world.until(lambda: len(world.inbounds) == 2 and inbound(world).routes == {})


async def test_mutual_tls_is_turned_on_and_off(world: World) -> None:
    replica = await start(world, "DISABLED")
    route_to(world, replica)
    await world.settle(1)
    environment = world.put_environment(mtls="STRICT")
    await world.until(lambda: status(world, replica).identity != "")
    identity = status(world, replica).identity
    assert peers(world) == (identity,), "known before a split names it"
    route_to(world, replica)
    await world.until(lambda: "fraud" in world.gateway.served)
    await world.settle(1)

    world.put_environment(mtls="DISABLED")
    await world.until(lambda: status(world, replica).address.startswith("unix:"))
    await world.settle(10)
    assert world.running("inbound-") == [INBOUND], "a split still leads there"
    assert peers(world) == (identity,)
    route_to(world, replica)
    await world.until(lambda: world.running("inbound-") == [])
    assert peers(world) == ()
    assert list((world.places.runtime_dir / "identity").iterdir()) == []
    assert len(world.gateways) == 1, "the gateway itself never changed"
    assert environment.spec.mtls == "STRICT"


async def test_an_agent_that_comes_back_ends_what_it_was_giving_up(world: World) -> None:
    replica = await start(world)
    route_to(world, replica)
    await world.settle(1)
    world.put_environment(mtls="DISABLED")
    await world.until(lambda: status(world, replica).address.startswith("unix:"))
    await world.kill_agent()
    world.start_agent()
    await world.settle(5)
    assert world.running("inbound-") == [INBOUND], "a split still leads there"
    assert world.gateway.credentials is not None
    route_to(world, replica)
    await world.until(lambda: world.running("inbound-") == [])
    assert list((world.places.runtime_dir / "identity").iterdir()) == []


async def test_a_deleted_environment_leaves_nothing(world: World) -> None:
    replica = await start(world)
    world.control_plane.remove(world.control_plane.read(replica))
    environment = world.control_plane.read(world.put_environment(mtls="STRICT"))
    world.control_plane.remove(environment)
    await world.until(lambda: world.running("inbound-") == [])
    assert list((world.places.runtime_dir / "identity").iterdir()) == []


async def test_a_gateway_that_others_come_in_by_has_a_certificate(world: World) -> None:
    environment: Environment = world.put_environment()
    mesh = GatewayMesh(port=world.port + 1, allow=("staging",))
    gateway = environment.spec.gateway.with_(mesh=mesh)
    world.control_plane.put(environment.with_spec(gateway=gateway))
    world.start_agent()
    await world.until(lambda: world.gateways != [] and world.gateway.credentials is not None)
    assert world.control_plane.certified == ["production/gateway"]
    assert world.inbounds == []


async def test_copies_go_to_gateways_that_are_known_by_name(world: World) -> None:
    environment = world.put_environment(mtls="STRICT")
    world.put_split(
        (world.revision(), 100),
        remotes=(SplitRemote(environment="staging", address="127.0.0.1:7091", percentage=25),),
    )
    world.start_agent()
    await world.until(lambda: "fraud" in world.gateway.served if world.gateways else False)
    (remote,) = world.gateway.served["fraud"].remotes
    assert remote.identity.endswith("/environments/staging/gateway")
    assert (remote.address, remote.share) == ("127.0.0.1:7091", 2500)
    assert environment.spec.mtls == "STRICT"


async def test_without_a_certificate_nothing_is_copied(world: World) -> None:
    world.put_environment()
    world.put_split(
        (world.revision(), 100),
        remotes=(SplitRemote(environment="staging", address="127.0.0.1:7091", percentage=25),),
    )
    world.start_agent()
    await world.until(lambda: "fraud" in world.gateway.served if world.gateways else False)
    assert world.gateway.served["fraud"].remotes == ()
