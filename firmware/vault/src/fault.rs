//! Why the keys are not there.
//!
//! Job: name each way in which the TPM or the key store can fail, and tell the operator what happened and what to do.
//! Place: made by `tpm` and `store`, shown by `postern keys status`. Invariants: a fault never holds key material; code
//! looks at the variant, never at the text. A crash leaves nothing.

use std::{path::PathBuf, time::Duration};

/// Why the vault is locked, or why its unlocking does not last. Two halves: what happened; what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No TPM answers at the configured place.
    #[error(
        "the TPM at {tcti} does not answer ({detail}); check that the TPM is enabled in the firmware's settings, or enter \
         the recovery key"
    )]
    Absent {
        /// Where it was looked for.
        tcti: String,
        /// What the TPM library says.
        detail: String,
    },
    /// The TPM takes longer than its deadline.
    #[error(
        "the TPM has not answered within {} s; wait and try again, restart the machine, or enter the recovery key",
        .deadline.as_secs_f32()
    )]
    Slow {
        /// How long it had.
        deadline: Duration,
    },
    /// The TPM refuses because of failed authorisations.
    #[error(
        "the TPM is locked out after failed authorisations; leave the machine on for its lockout time and try again, or \
         enter the recovery key"
    )]
    LockedOut,
    /// The TPM's storage seed is another one, its endorsement seed is the same.
    #[error(
        "the TPM was cleared, so what was sealed in it is gone; enter the recovery key, the keys are then sealed anew"
    )]
    Cleared,
    /// Another TPM: another board, another chip, or the disk in another machine.
    #[error(
        "this is not the TPM that the keys were sealed in; put the disk back into its machine, or enter the recovery key \
         to move the keys here"
    )]
    Replaced,
    /// PCR 7 is not what it was when the keys were sealed.
    #[error(
        "the Secure Boot state or its keys have changed (PCR 7); if the change was yours, enter the recovery key, the \
         keys are then sealed to the new state"
    )]
    SecureBootChanged,
    /// The firmware starts what is not signed.
    #[error(
        "Secure Boot is off, so nothing is sealed to this start; enrol the image's keys in the firmware's setup and switch \
         Secure Boot on, then restart and enter the recovery key if it is asked for"
    )]
    SecureBootOff,
    /// PCR 12 is not zero.
    #[error(
        "the boot was altered by a command line or an add-on (PCR 12); restart without it, or enter the recovery key for \
         this boot only"
    )]
    BootAltered,
    /// PCR 11 shows a firmware for which there is no signature.
    #[error(
        "the running firmware is not among the signed ones (PCR 11); start the other slot or install a signed update, or \
         enter the recovery key for this boot only"
    )]
    SignatureMissing,
    /// A signature for this firmware exists, and does not verify.
    #[error(
        "the firmware's policy signature is not by the vendor's key; install a signed update, or enter the recovery key \
         for this boot only"
    )]
    SignatureForged,
    /// The firmware is signed, but not for the security generation that the keys are sealed for.
    #[error(
        "the running firmware is signed for security generation {}, the keys need generation {needed}; start or install \
         a firmware of that generation, or enter the recovery key for this boot only",
        list(.signed)
    )]
    OtherGeneration {
        /// What the keys are sealed for.
        needed: u32,
        /// What this firmware has signatures for.
        signed: Vec<u32>,
    },
    /// The policy key on the image is not the one that the keys are sealed for.
    #[error(
        "the image carries another vendor's policy key than the one that the keys are sealed for; start the other slot, \
         or enter the recovery key"
    )]
    OtherPolicyKey,
    /// The policy key or its signatures cannot be read from the image.
    #[error("{}: {detail}; reinstall the firmware, or enter the recovery key for this boot only", .path.display())]
    PolicyFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A file of the key store cannot be read or written.
    #[error(
        "the key store {} cannot be read or written ({detail}); mend its permissions, owner or disk, then try again",
        .path.display()
    )]
    StoreUnreadable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file of the key store is damaged.
    #[error(
        "{} in the key store is damaged ({detail}); restore it from a backup, or enter the recovery key",
        .path.display()
    )]
    StoreCorrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no key store where there must be one.
    #[error("the key store {} is missing; restore it from a backup: new keys would not open the queue", .path.display())]
    StoreMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Any other refusal of the TPM.
    #[error("the TPM refused {command} ({detail}); restart the machine, or enter the recovery key")]
    Refused {
        /// The TPM 2.0 command.
        command: &'static str,
        /// The response.
        detail: String,
    },
}

impl Fault {
    /// Whether it can pass without anyone entering the recovery key or mending files, so that trying again by itself
    /// makes sense.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Slow { .. } | Self::LockedOut | Self::StoreUnreadable { .. })
    }

    /// A short name that never changes, for `--json` and for tests.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "tpm-absent",
            Self::Slow { .. } => "tpm-slow",
            Self::LockedOut => "tpm-locked-out",
            Self::Cleared => "tpm-cleared",
            Self::Replaced => "tpm-replaced",
            Self::SecureBootChanged => "secure-boot-changed",
            Self::SecureBootOff => "secure-boot-off",
            Self::BootAltered => "boot-altered",
            Self::SignatureMissing => "signature-missing",
            Self::SignatureForged => "signature-forged",
            Self::OtherGeneration { .. } => "other-generation",
            Self::OtherPolicyKey => "other-policy-key",
            Self::PolicyFile { .. } => "policy-file",
            Self::StoreUnreadable { .. } => "store-unreadable",
            Self::StoreCorrupt { .. } => "store-corrupt",
            Self::StoreMissing { .. } => "store-missing",
            Self::Refused { .. } => "tpm-refused",
        }
    }
}

fn list(generations: &[u32]) -> String {
    let words: Vec<_> = generations.iter().map(u32::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_says_what_happened_and_what_to_do() {
        let path = PathBuf::from("/data/vault/root.json");
        let detail = String::from("reason");
        let all = [
            Fault::Absent { tcti: "device:/dev/tpmrm0".to_owned(), detail: detail.clone() },
            Fault::Slow { deadline: Duration::from_secs(5) },
            Fault::LockedOut,
            Fault::Cleared,
            Fault::Replaced,
            Fault::SecureBootChanged,
            Fault::SecureBootOff,
            Fault::BootAltered,
            Fault::SignatureMissing,
            Fault::SignatureForged,
            Fault::OtherGeneration { needed: 3, signed: vec![1, 2] },
            Fault::OtherPolicyKey,
            Fault::PolicyFile { path: path.clone(), detail: detail.clone() },
            Fault::StoreUnreadable { path: path.clone(), detail: detail.clone() },
            Fault::StoreCorrupt { path: path.clone(), detail: detail.clone() },
            Fault::StoreMissing { path },
            Fault::Refused { command: "TPM2_Load", detail },
        ];
        for fault in &all {
            let text = fault.to_string();
            let (happened, to_do) = text.split_once("; ").unwrap();
            assert!(happened.len() > 20 && to_do.len() > 20 && !text.contains("  "), "{text}");
        }
        let codes: std::collections::BTreeSet<_> = all.iter().map(Fault::code).collect();
        assert_eq!(codes.len(), all.len());
    }
}
