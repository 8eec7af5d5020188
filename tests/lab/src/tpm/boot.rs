//! The known boot and the development policy key that signs it.
//!
//! Job: say what is measured, predict the PCR values, and sign the PCR policy as the image build does it for a release.
//! Place: used by [`super::SoftTpm`]. Invariants: signatures are made over predicted values, never over what a TPM
//! shows; the private key stays in the lab's folder. A crash leaves a key file that is whole or absent.

use super::{TpmError, hex};
use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What a boot measures, in order; each event is hashed and extended into the SHA-256 bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// PCR 7: state and keys of Secure Boot.
    pub secure_boot: Vec<String>,
    /// PCR 11: sections of the kernel image, then the boot phases up to the one in which the daemon runs.
    pub kernel: Vec<String>,
}

impl Default for Boot {
    fn default() -> Self {
        let list = |events: &[&str]| events.iter().map(|&event| event.to_owned()).collect();
        Self {
            secure_boot: list(&["SecureBoot=1", "PK=postern lab", "KEK=postern lab", "db=postern lab", "dbx="]),
            kernel: list(&[
                ".linux=postern lab 1",
                ".cmdline=roothash=lab",
                "enter-initrd",
                "leave-initrd",
                "sysinit",
                "ready",
            ]),
        }
    }
}

/// The development policy key: RSA-2048, made on first use, never committed.
#[derive(Debug)]
pub struct PolicyKey {
    pair: KeyPair,
}

impl PolicyKey {
    /// A key of its own, for a signature that must be refused.
    ///
    /// # Errors
    /// The random source fails.
    pub fn generate() -> Result<Self, TpmError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| no_key(Path::new("policy key")))?;
        Ok(Self { pair })
    }

    /// The key of `folder`, and beside it its public part as `policy-public.pem`.
    pub(super) fn load_or_generate(folder: &Path) -> Result<Self, TpmError> {
        let path = folder.join("policy-key.der");
        let key = match fs::read(&path) {
            Ok(der) => Self { pair: KeyPair::from_pkcs8(&der).map_err(|_| no_key(&path))? },
            Err(_) => {
                let key = Self::generate()?;
                let der: Pkcs8V1Der<'_> = key.pair.as_der().map_err(|_| no_key(&path))?;
                write_whole(&path, der.as_ref())?;
                key
            }
        };
        key.write_public(&folder.join("policy-public.pem"))?;
        Ok(key)
    }

    /// Writes the public part as PEM (`PUBLIC KEY`, RFC 7468 §13).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_public(&self, path: &Path) -> Result<(), TpmError> {
        let der: PublicKeyX509Der<'_> = self.pair.public_key().as_der().map_err(|_| no_key(path))?;
        let body = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        write_whole(path, pem.as_bytes())
    }

    /// Writes `boot` signed for each of `generations`: systemd's format of `tpm2-pcr-signature.json`, to which each
    /// entry adds `generation`. What is signed is SHA-256(approvedPolicy ‖ policyRef), RSASSA; policyRef is the
    /// generation as 32 bits, big-endian (TPM 2.0 Part 3, TPM2_PolicyAuthorize).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_signatures(&self, path: &Path, boot: &Boot, generations: &[u32]) -> Result<(), TpmError> {
        let policy = pcr_policy(11, predict(&boot.kernel));
        let public: PublicKeyX509Der<'_> = self.pair.public_key().as_der().map_err(|_| no_key(path))?;
        let fingerprint = hex(&sha256(&[public.as_ref()]));
        let mut entries = Vec::new();
        for generation in generations {
            let signed = [&policy[..], &generation.to_be_bytes()].concat();
            let mut signature = vec![0; self.pair.public_modulus_len()];
            let made = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &signed, &mut signature);
            made.map_err(|_| no_key(path))?;
            entries.push(serde_json::json!({
                "pcrs": [11], "pkfp": fingerprint, "pol": hex(&policy),
                "generation": generation, "sig": STANDARD.encode(&signature),
            }));
        }
        write_whole(path, serde_json::json!({ "sha256": entries }).to_string().as_bytes())
    }
}

/// The value of a PCR that started from zero and was extended with `events`.
pub(super) fn predict(events: &[String]) -> [u8; 32] {
    events.iter().fold([0; 32], |value, event| sha256(&[&value, &sha256(&[event.as_bytes()])]))
}

/// The policy digest after one TPM2_PolicyPCR over `pcr` with this value, from an empty session.
fn pcr_policy(pcr: u8, value: [u8; 32]) -> [u8; 32] {
    const TPM_CC_POLICY_PCR: [u8; 4] = 0x0000_017f_u32.to_be_bytes();
    // TPML_PCR_SELECTION: one bank, SHA-256 (0x000b), three octets of bit map.
    let bits = (1_u32 << pcr).to_le_bytes();
    let selection = [0, 0, 0, 1, 0x00, 0x0b, 3, bits[0], bits[1], bits[2]];
    sha256(&[&[0; 32], &TPM_CC_POLICY_PCR, &selection, &sha256(&[&value])])
}

pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut value = [0; 32];
    value.copy_from_slice(context.finish().as_ref());
    value
}

fn no_key(path: &Path) -> TpmError {
    TpmError::PolicyKey { path: path.to_owned() }
}

/// Written beside and renamed, so that a broken-off write is never taken for the file; readable to its owner only.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TpmError> {
    let failed = || TpmError::io(format!("writing {}", path.display()));
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed())?;
    fs::rename(&beside, path).map_err(failed())
}
