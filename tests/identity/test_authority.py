"""The built-in certificate authority: whom it certifies, and how one hands over to the next."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from modelplane.adapters.identity.authority import FolderAuthority
from modelplane.adapters.identity.keys import EllipticKeys
from modelplane.errors import Conflict, InvalidResource, TerminalError
from modelplane.resources.certificates import CertificateRequest, IssuedCertificate, Workload
from modelplane.testing.clock import ManualClock

INBOUND = Workload(environment="production", role="inbound", node="local")
GATEWAY = Workload(environment="production", role="gateway")
LIFE_S, JOINING_S = 3600.0, 300.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> FolderAuthority:
    return FolderAuthority(tmp_path / "ca", clock, life_s=LIFE_S, joining_s=JOINING_S)


def issue(authority: FolderAuthority, workload: Workload = GATEWAY) -> IssuedCertificate:
    request = EllipticKeys().make_key().request
    return authority.issue(CertificateRequest(workload=workload, request=request))


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def holds(certificate: str, trusted: str, clock: ManualClock) -> bool:
    """Whether a verifier that is not ours accepts the certificate as a client's."""
    store = Store(x509.load_pem_x509_certificates(trusted.encode()))
    verifier = PolicyBuilder().store(store).time(clock.now()).build_client_verifier()
    try:
        verifier.verify(load(certificate), [])
    except VerificationError:
        return False
    return True


def test_a_certificate_has_one_name_and_a_short_life(
    authority: FolderAuthority, clock: ManualClock
) -> None:
    issued = issue(authority, INBOUND)
    certificate = load(issued.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    domain = issued.trust.trust_domain
    assert issued.identity == f"spiffe://{domain}/environments/production/nodes/local/inbound"
    assert [name.value for name in names.value] == [issued.identity]
    assert names.critical
    assert not list(certificate.subject)
    assert certificate.not_valid_after_utc == clock.now() + timedelta(seconds=LIFE_S)
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert holds(issued.certificate, issued.trust.authorities, clock)


def test_a_certificate_ends(authority: FolderAuthority, clock: ManualClock) -> None:
    issued = issue(authority)
    clock.step(LIFE_S + 1)
    assert not holds(issued.certificate, issued.trust.authorities, clock)


def test_nothing_is_made_before_somebody_asks(authority: FolderAuthority, tmp_path: Path) -> None:
    assert authority.trust() is None
    assert authority.status().authorities == ()
    assert not (tmp_path / "ca").exists()


def test_only_its_owner_reads_the_key(authority: FolderAuthority, tmp_path: Path) -> None:
    issue(authority)
    folder = tmp_path / "ca"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_the_authority_is_the_same_after_a_restart(
    authority: FolderAuthority, tmp_path: Path, clock: ManualClock
) -> None:
    first = issue(authority)
    again = FolderAuthority(tmp_path / "ca", clock, life_s=LIFE_S, joining_s=JOINING_S)
    assert again.trust() == first.trust


def request_with(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "") -> str:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def with_a_name_of_its_own() -> str:
    uri = x509.UniformResourceIdentifier("spiffe://d/environments/production/gateway")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def with_a_broken_signature() -> str:
    request = x509.load_pem_x509_csr(EllipticKeys().make_key().request.encode())
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-5] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("request_text", "why"),
    [
        ("nothing", "no PKCS #10"),
        ("", "no PKCS #10"),
        (request_with(rsa.generate_private_key(65537, 2048)), "P-256"),
        (request_with(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (request_with(ec.generate_private_key(ec.SECP256R1()), "admin"), "leave them out"),
        (with_a_name_of_its_own(), "leave them out"),
        (with_a_broken_signature(), "not signed by its own key"),
    ],
)
def test_a_request_that_is_not_in_order_is_refused(
    authority: FolderAuthority, tmp_path: Path, request_text: str, why: str
) -> None:
    with pytest.raises(InvalidResource) as refused:
        authority.issue(CertificateRequest(workload=GATEWAY, request=request_text))
    assert why in str(refused.value)
    assert not (tmp_path / "ca").exists()


def test_a_rollover_leaves_no_moment_without_trust(
    authority: FolderAuthority, clock: ManualClock
) -> None:
    """Whoever heard of the authorities in the last `JOINING_S` trusts every living certificate."""
    issued: list[IssuedCertificate] = []
    heard: list[tuple[float, str]] = []
    phases: list[tuple[tuple[int, str], ...]] = []
    rotated = False
    for step in range(48):
        issued.append(issue(authority))
        bundle = authority.trust()
        assert bundle is not None
        heard.append((clock.monotonic_s(), bundle.authorities))
        if step == 3 and not rotated:
            authority.rotate()
            rotated = True
        now_s = clock.monotonic_s()
        for at_s, trusted in heard:
            if now_s - at_s < JOINING_S:
                for one in issued:
                    if one.not_after > clock.now():
                        assert holds(one.certificate, trusted, clock)
        found = tuple((one.number, one.phase) for one in authority.status().authorities)
        if not phases or phases[-1] != found:
            phases.append(found)
        clock.step(150)
    assert phases == [
        ((1, "signing"),),
        ((1, "signing"), (2, "joining")),
        ((1, "leaving"), (2, "signing")),
        ((2, "signing"),),
    ]


def test_the_old_key_goes_when_it_signs_no_more(
    authority: FolderAuthority, clock: ManualClock, tmp_path: Path
) -> None:
    old = issue(authority)
    authority.rotate()
    clock.step(JOINING_S)
    new = issue(authority)
    assert load(new.certificate).issuer != load(old.certificate).issuer
    assert not (tmp_path / "ca" / "1.key").exists()
    assert (tmp_path / "ca" / "1.pem").exists()
    clock.step(LIFE_S)
    bundle = authority.trust()
    assert bundle is not None
    assert not (tmp_path / "ca" / "1.pem").exists()
    assert len(x509.load_pem_x509_certificates(bundle.authorities.encode())) == 1


def test_no_key_of_a_gone_authority_outlives_a_crash(
    authority: FolderAuthority,
    clock: ManualClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whom the list no longer names is never looked at again, so its key goes before."""

    def crash(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    issue(authority)
    authority.rotate()
    clock.step(JOINING_S + LIFE_S)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            authority.trust()
    assert not (tmp_path / "ca" / "1.key").exists()
    assert [one.number for one in authority.status().authorities] == [2]


def test_one_rollover_at_a_time(authority: FolderAuthority, clock: ManualClock) -> None:
    authority.rotate()
    with pytest.raises(Conflict, match="authority 2 is joining"):
        authority.rotate()
    clock.step(JOINING_S)
    assert [one.number for one in authority.rotate().authorities] == [1, 2, 3]


def test_shorter_lives_do_not_cut_the_trust_in_longer_ones(
    authority: FolderAuthority, clock: ManualClock, tmp_path: Path
) -> None:
    long_lived = issue(authority)
    shorter = FolderAuthority(tmp_path / "ca", clock, life_s=60.0, joining_s=1.0)
    shorter.rotate()
    clock.step(LIFE_S - 10)
    issue(shorter)
    bundle = shorter.trust()
    assert bundle is not None
    assert holds(long_lived.certificate, bundle.authorities, clock)


def test_an_unreadable_list_is_an_error_and_not_a_new_authority(
    authority: FolderAuthority, tmp_path: Path
) -> None:
    issue(authority)
    (tmp_path / "ca" / "authorities.json").write_text("{")
    with pytest.raises(TerminalError, match="cannot be read"):
        issue(authority)


def test_no_secret_is_shown() -> None:
    key = EllipticKeys().make_key()
    assert "PRIVATE" not in repr(key)
    assert "PRIVATE" not in json.dumps(key.request)
