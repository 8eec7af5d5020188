//! Signed PCR policies: what lets the TPM release keys to this image and to no other.
//!
//! Job: the digest of TPM2_PolicyPCR over PCR 11 and its signatures, in systemd's JSON. Place: behind `measure`; the files lie
//! beside the UKI in its boot partition. Invariants: two sets by one key that can't be taken for each other: systemd's with an
//! empty policyRef for the phase in which the data partition is opened, the vault's with the security generation as policyRef
//! for the phase in which the daemon runs.

use crate::{ImageError, hex, keys::Keys, measure, measure::Pcr, sha256};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use std::ops::RangeInclusive;

/// When systemd-cryptsetup opens the data partition: nothing has been measured behind the stub's sections.
const DATA_PHASE: &str = "";
/// When the daemon runs: behind systemd-pcrphase.service.
const DAEMON_PHASE: &str = "sysinit:ready";

/// The file format of systemd-measure, one bank; `generation` is ours.
#[derive(Serialize)]
struct Signatures {
    sha256: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    pcrs: [u8; 1],
    /// SHA-256 of the public key in PKCS#1 DER, by which systemd finds the entry.
    pkfp: String,
    pol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
    sig: String,
}

/// The digest of a policy session after one TPM2_PolicyPCR over PCR 11 with this value (TPM 2.0 Part 3, PolicyPCR).
#[must_use]
pub fn digest(value: &Pcr) -> [u8; 32] {
    const COMMAND: [u8; 4] = 0x0000_017f_u32.to_be_bytes();
    // TPML_PCR_SELECTION: one bank, SHA-256 (0x000b), three octets of bit map; PCR 11 is bit 3 of the second.
    const SELECTION: [u8; 10] = [0, 0, 0, 1, 0x00, 0x0b, 3, 0, 1 << 3, 0];
    sha256(&[&[0; 32], &COMMAND, &SELECTION, &sha256(&[value])])
}

/// `pcr-signature.json` for systemd-cryptsetup. `stub` is PCR 11 as the stub leaves it.
///
/// # Errors
/// The key cannot sign.
pub fn for_data(keys: &Keys, stub: Pcr) -> Result<Vec<u8>, ImageError> {
    let entry = entry(keys, &digest(&measure::phase(stub, DATA_PHASE)), None)?;
    Ok(json(vec![entry]))
}

/// `policy-signatures.json` for the vault: an entry for each generation that may still be sealed for.
///
/// # Errors
/// The key cannot sign.
pub fn for_daemon(keys: &Keys, stub: Pcr, generations: RangeInclusive<u32>) -> Result<Vec<u8>, ImageError> {
    let policy = digest(&measure::phase(stub, DAEMON_PHASE));
    let entries = generations.map(|generation| entry(keys, &policy, Some(generation)));
    Ok(json(entries.collect::<Result<_, _>>()?))
}

/// What is signed is SHA-256(approvedPolicy ‖ policyRef) (Part 3, PolicyAuthorize); a generation is 32 bits, big-endian.
fn entry(keys: &Keys, policy: &[u8; 32], generation: Option<u32>) -> Result<Entry, ImageError> {
    let (_, public) = keys.policy_public()?;
    let reference = generation.map(u32::to_be_bytes);
    let signed = [&policy[..], reference.as_ref().map_or(&[][..], |octets| octets)].concat();
    let signature = keys.sign_policy(&signed)?;
    Ok(Entry {
        pcrs: [11],
        pkfp: hex(&sha256(&[&public])),
        pol: hex(policy),
        generation,
        sig: STANDARD.encode(signature),
    })
}

fn json(entries: Vec<Entry>) -> Vec<u8> {
    // Strings and numbers only: this cannot fail.
    serde_json::to_vec(&Signatures { sha256: entries }).unwrap_or_default()
}
