"""`ports.identity.CertificateAuthority` in a folder: keys and certificates of the authorities.

Built by wiring for the control plane, which alone reads the folder. A private key is there only
while its authority signs or is about to; files are written whole or not at all, the list last, so
that a crash in between leaves what was before. Which authority stands how is decided in
`decisions.identity`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelplane.adapters.identity.keys import pem_of_key
from modelplane.decisions.identity import Authority, Standing, decide_standing, spiffe_id
from modelplane.errors import Conflict, FieldError, InvalidResource, TerminalError
from modelplane.ports.clock import Clock
from modelplane.resources.certificates import (
    AuthoritiesStatus,
    AuthorityStatus,
    CertificateRequest,
    IssuedCertificate,
    TrustBundle,
)

_AUTHORITY_LIFE = timedelta(days=3650)
_SKEW = timedelta(seconds=60)
"""Certificates begin so long before now, for machines whose clocks are behind."""


class FolderAuthority:
    """The authorities in one folder.

    Parameters
    ----------
    directory
        The folder; made, mode 0700, when the first certificate is asked for.
    clock
        Time.
    life_s
        Life of the certificates it issues, seconds.
    joining_s
        How long a new authority is trusted before it signs, seconds: longer than agents take to
        hear of it.
    """

    def __init__(
        self, directory: Path, clock: Clock, *, life_s: float = 3600.0, joining_s: float = 300.0
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._life_s = life_s
        self._joining_s = joining_s
        self._lock = threading.Lock()

    def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """Certify a workload; see the port."""
        public_key = _read_request(request.request)
        with self._lock:
            return self._issue(request, public_key)

    def _issue(
        self, request: CertificateRequest, public_key: ec.EllipticCurvePublicKey
    ) -> IssuedCertificate:
        trust_domain, authorities = self._load_or_begin()
        now = self._clock.now()
        standing = self._settle(trust_domain, authorities, now)
        signer = standing.signer
        if signer.longest_life_s < self._life_s:
            # Before the certificate exists: its authority must be trusted as long as it lives.
            signer = replace(signer, longest_life_s=self._life_s)
            kept = [one for one in standing.trusted if one.number != signer.number]
            self._write_list(trust_domain, sorted([*kept, signer], key=lambda one: one.number))
        identity = spiffe_id(trust_domain, request.workload)
        not_before, not_after = now - _SKEW, now + timedelta(seconds=self._life_s)
        certificate = self._sign(signer, public_key, identity, (not_before, not_after))
        return IssuedCertificate(
            identity=identity,
            certificate=certificate,
            not_before=not_before,
            not_after=not_after,
            trust=self._bundle(trust_domain, standing),
        )

    def trust(self) -> TrustBundle | None:
        """Return whom to trust now; None while there is no authority."""
        with self._lock:
            trust_domain, authorities = self._load()
            if not authorities:
                return None
            standing = self._settle(trust_domain, authorities, self._clock.now())
            return self._bundle(trust_domain, standing)

    def status(self) -> AuthoritiesStatus:
        """Return how the authorities stand."""
        with self._lock:
            return self._status()

    def _status(self) -> AuthoritiesStatus:
        trust_domain, authorities = self._load()
        if not authorities:
            return AuthoritiesStatus(certificate_life_s=self._life_s)
        standing = self._settle(trust_domain, authorities, self._clock.now())
        return AuthoritiesStatus(
            trust_domain=trust_domain,
            certificate_life_s=self._life_s,
            authorities=tuple(self._describe(standing)),
        )

    def rotate(self) -> AuthoritiesStatus:
        """Make a new authority that is trusted at once and signs after the time of joining."""
        with self._lock:
            return self._rotate()

    def _rotate(self) -> AuthoritiesStatus:
        trust_domain, authorities = self._load_or_begin()
        now = self._clock.now()
        standing = self._settle(trust_domain, authorities, now)
        if standing.joining:
            joining = standing.joining[0]
            raise Conflict(
                f"authority {joining.number} is joining already and signs from "
                f"{joining.signs_from:%H:%M:%S} UTC",
                hint="rotate again once it signs; see modelplane ca status",
            )
        signs_from = now + timedelta(seconds=self._joining_s)
        new = Authority(standing.signer.number + 1, now, signs_from, self._life_s)
        self._write_authority(new, trust_domain)
        self._write_list(trust_domain, [*standing.trusted, new])
        return self._status()

    # The list ---------------------------------------------------------------------------------

    def _load(self) -> tuple[str, list[Authority]]:
        try:
            data = json.loads((self._directory / "authorities.json").read_text())
            return data["trustDomain"], [_read_authority(item) for item in data["authorities"]]
        except FileNotFoundError:
            return "", []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TerminalError(
                f"the list of authorities in {self._directory} cannot be read: {error}",
                hint="restore the folder; or remove it, and every workload gets new certificates "
                "of a new authority",
            ) from error

    def _load_or_begin(self) -> tuple[str, list[Authority]]:
        trust_domain, authorities = self._load()
        if authorities:
            return trust_domain, authorities
        now = self._clock.now()
        first = Authority(1, now, now, self._life_s)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        trust_domain = f"modelplane-{os.urandom(4).hex()}"
        self._write_authority(first, trust_domain)
        self._write_list(trust_domain, [first])
        return trust_domain, [first]

    def _settle(
        self, trust_domain: str, authorities: Sequence[Authority], now: datetime
    ) -> Standing:
        """Return how they stand, and remove what is over: keys first, then whole authorities."""
        standing = decide_standing(authorities, now)
        for one in (*standing.gone, *(one for one, _ in standing.leaving)):
            self._key_path(one.number).unlink(missing_ok=True)
        if standing.gone:
            self._write_list(trust_domain, standing.trusted)
            for one in standing.gone:
                self._certificate_path(one.number).unlink(missing_ok=True)
        return standing

    def _write_list(self, trust_domain: str, authorities: Iterable[Authority]) -> None:
        data = {
            "trustDomain": trust_domain,
            "authorities": [
                {
                    "number": one.number,
                    "createdAt": one.created_at.isoformat(),
                    "signsFrom": one.signs_from.isoformat(),
                    "longestLifeS": one.longest_life_s,
                }
                for one in authorities
            ],
        }
        _write_whole(self._directory / "authorities.json", json.dumps(data, indent=1) + "\n")

    # Keys and certificates --------------------------------------------------------------------

    def _write_authority(self, authority: Authority, trust_domain: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, f"modelplane authority {authority.number}"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain),
            ]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(authority.created_at - _SKEW)
            .not_valid_after(authority.created_at + _AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(_uri(f"spiffe://{trust_domain}"), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        _write_whole(self._key_path(authority.number), pem_of_key(key))
        _write_whole(self._certificate_path(authority.number), _pem(certificate))

    def _sign(
        self,
        signer: Authority,
        public_key: ec.EllipticCurvePublicKey,
        identity: str,
        life: tuple[datetime, datetime],
    ) -> str:
        issuer = self._certificate(signer.number)
        key = self._key(signer.number)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(life[0])
            .not_valid_after(life[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            # Critical, because there is no subject (RFC 5280, 4.2.1.6).
            .add_extension(_uri(identity), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False
            )
            .sign(key, hashes.SHA256())
        )
        return _pem(certificate)

    def _key(self, number: int) -> ec.EllipticCurvePrivateKey:
        path = self._key_path(number)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise TerminalError(
                f"the authority's key {path} cannot be read", hint="restore the file"
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _certificate(self, number: int) -> x509.Certificate:
        path = self._certificate_path(number)
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise TerminalError(
                f"the authority's certificate {path} cannot be read", hint="restore the file"
            ) from error

    def _bundle(self, trust_domain: str, standing: Standing) -> TrustBundle:
        pems = [_pem(self._certificate(one.number)) for one in standing.trusted]
        return TrustBundle(trust_domain=trust_domain, authorities="".join(pems))

    def _describe(self, standing: Standing) -> Iterable[AuthorityStatus]:
        signer, joining = standing.signer, standing.joining
        for one, until in standing.leaving:
            since = next(a.signs_from for a in standing.trusted if a.number > one.number)
            yield self._state(one, "leaving", since, until)
        yield self._state(
            signer, "signing", signer.signs_from, joining[0].signs_from if joining else None
        )
        for one in joining:
            yield self._state(one, "joining", one.created_at, one.signs_from)

    def _state(
        self, one: Authority, phase: Any, since: datetime, until: datetime | None
    ) -> AuthorityStatus:
        digest = self._certificate(one.number).fingerprint(hashes.SHA256()).hex()
        return AuthorityStatus(
            number=one.number, phase=phase, since=since, until=until, fingerprint=digest
        )

    def _key_path(self, number: int) -> Path:
        return self._directory / f"{number}.key"

    def _certificate_path(self, number: int) -> Path:
        return self._directory / f"{number}.pem"


def _read_request(text: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request that is in order."""
    try:
        request = x509.load_pem_x509_csr(text.encode())
        signed = request.is_signature_valid
        named = bool(list(request.subject)) or bool(list(request.extensions))
        key = request.public_key()
    except Exception as error:  # the parser raises many kinds, all for the same reason
        raise _refused("it is no PKCS #10 request in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("its key is not one of the curve P-256")
    if not signed:
        raise _refused("it is not signed by its own key")
    if named:
        raise _refused("it asks for names or uses; leave them out: the workload says who it is")
    return key


def _refused(why: str) -> InvalidResource:
    return InvalidResource("the certificate request is refused", [FieldError("request", why)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _uri(name: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _read_authority(item: dict[str, Any]) -> Authority:
    return Authority(
        number=int(item["number"]),
        created_at=datetime.fromisoformat(item["createdAt"]).astimezone(UTC),
        signs_from=datetime.fromisoformat(item["signsFrom"]).astimezone(UTC),
        longest_life_s=float(item["longestLifeS"]),
    )


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, never readable by others."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
