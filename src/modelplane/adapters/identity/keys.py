"""`ports.identity.KeyMaker`: P-256 keys, made where they are used.

Built by wiring for the agent. Keeps nothing.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelplane.ports.identity import NewKey


class EllipticKeys:
    """Makes P-256 keys."""

    def make_key(self) -> NewKey:
        """Return a new key with a request that proves its possession and names nobody."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.sign(key, hashes.SHA256())
        return NewKey(
            private_key=pem_of_key(key),
            request=request.public_bytes(serialization.Encoding.PEM).decode(),
        )


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as unencrypted PKCS #8, PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
