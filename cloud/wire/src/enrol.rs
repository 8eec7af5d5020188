//! Enrolment: a one-time code and proof of a key, against a client certificate.

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/enrol`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The one-time code as the operator typed it; case, hyphens and spaces do not matter.
    pub code: String,
    /// PKCS #10 request (RFC 2986) as PEM, P-256 key, self-signed with ECDSA-SHA256. Only its key is used: names and
    /// extensions are the service's to give.
    pub csr: String,
    /// Proof that the key lives in a TPM. Stored with the appliance; nothing is decided by it in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// Name and version of the firmware, for the service's operators.
    pub software: String,
}

/// TPM evidence, all values base 64 of the TPM's own wire structures (TPM 2.0 Library, part 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// X.509 certificate of the endorsement key, DER.
    pub ek_certificate: String,
    /// TPM2B_PUBLIC of the attestation key.
    pub ak_public: String,
    /// TPM2B_ATTEST of TPM2_Certify over the identity key.
    pub certify_info: String,
    /// TPMT_SIGNATURE over `certify_info`, by the attestation key.
    pub certify_signature: String,
}

/// Answer to a successful enrolment. The same code with the same key is answered again until the code expires, so a
/// lost reply costs nothing; the code with another key is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolResponse {
    /// Name that the service gave this appliance.
    pub appliance: String,
    /// The tenant that the code was issued for.
    pub tenant: String,
    /// Client certificate, PEM.
    pub certificate: String,
    /// The device CA that issued it, PEM. (The server's own certificate is verified against other roots.)
    pub ca: String,
}
