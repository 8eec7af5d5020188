//! Key slots: the preallocated place of each message's wrapped key.
//!
//! Job: encode, decode and shred the 128 bytes that open a message. Place: the key region at the start of a segment.
//! Invariants: a slot never crosses a 512-byte sector, so a power cut leaves it as it was or as it was to be; a slot is
//! given once in a segment's life. A crash leaves slots empty, live or shredded; anything else is damage.

use crate::{
    Suite,
    seal::{Binding, MessageKey, Unsealable, WRAPPED},
};
use mail::MessageId;
use vault::Epochs;

/// Bytes of a slot; divides a sector.
pub(crate) const SLOT: usize = 128;

const LIVE: [u8; 4] = *b"PKEY";
const SHREDDED: [u8; 4] = *b"PSHR";
/// Where the check sum stands; behind it are zeros.
const SUM: usize = 96;

/// A wrapped message key and the record that it opens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeySlot {
    pub suite: Suite,
    pub epoch: u32,
    pub message: MessageId,
    /// Offset of the message's record in the same segment.
    pub offset: u32,
    pub nonce: [u8; 12],
    pub wrapped: [u8; WRAPPED],
}

/// What a slot holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Never given, or its write did not reach the disk.
    Empty,
    Live(KeySlot),
    /// The message is finished.
    Shredded,
    /// None of these.
    Damaged,
}

/// Why a slot does not give its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotError {
    EpochMissing,
    Forged,
}

impl KeySlot {
    /// Wraps `key` under the epoch that its binding names.
    pub fn wrap(key: &MessageKey, epoch: &vault::Key<vault::purpose::SpoolEpoch>) -> Result<Self, Unsealable> {
        let (nonce, wrapped) = key.wrap(epoch)?;
        let Binding { suite, message, epoch } = key.binding;
        Ok(Self { suite, epoch, message, offset: 0, nonce, wrapped })
    }

    pub fn unwrap(&self, epochs: &Epochs) -> Result<MessageKey, SlotError> {
        let epoch = epochs.by_id(self.epoch).ok_or(SlotError::EpochMissing)?;
        let binding = Binding { suite: self.suite, message: self.message, epoch: self.epoch };
        MessageKey::unwrap(binding, &epoch, self.nonce, &self.wrapped).map_err(|_| SlotError::Forged)
    }

    pub fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..4].copy_from_slice(&LIVE);
        bytes[4] = self.suite.to_byte();
        bytes[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.message.to_bytes());
        bytes[32..44].copy_from_slice(&self.nonce);
        bytes[44..44 + WRAPPED].copy_from_slice(&self.wrapped);
        let sum = crc32fast::hash(&bytes[..SUM]);
        bytes[SUM..SUM + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

impl Slot {
    /// The bytes that overwrite a key.
    pub const SHREDDED: [u8; SLOT] = {
        let mut bytes = [0; SLOT];
        bytes[0] = SHREDDED[0];
        bytes[1] = SHREDDED[1];
        bytes[2] = SHREDDED[2];
        bytes[3] = SHREDDED[3];
        bytes
    };

    pub fn decode(bytes: &[u8; SLOT]) -> Self {
        if bytes == &[0; SLOT] {
            return Self::Empty;
        }
        if bytes == &Self::SHREDDED {
            return Self::Shredded;
        }
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        if bytes[..4] != LIVE || word(SUM) != crc32fast::hash(&bytes[..SUM]) || bytes[SUM + 4..] != [0; SLOT - SUM - 4]
        {
            return Self::Damaged;
        }
        let Some(suite) = Suite::from_byte(bytes[4]) else { return Self::Damaged };
        let (mut id, mut nonce, mut wrapped) = ([0; 16], [0; 12], [0; WRAPPED]);
        id.copy_from_slice(&bytes[16..32]);
        nonce.copy_from_slice(&bytes[32..44]);
        wrapped.copy_from_slice(&bytes[44..44 + WRAPPED]);
        let message = MessageId::from_bytes(id);
        Self::Live(KeySlot { suite, epoch: word(8), message, offset: word(12), nonce, wrapped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn slot() -> (KeySlot, Epochs) {
        let key = || vault::Key::from_bytes(Zeroizing::new([4; 32]));
        let binding = Binding { suite: Suite::Aes256Gcm, message: MessageId::from_bytes([1; 16]), epoch: 2 };
        let message = MessageKey::generate(binding).unwrap();
        (KeySlot { offset: 4096, ..KeySlot::wrap(&message, &key()).unwrap() }, Epochs::fixed(vec![(2, key())]))
    }

    #[test]
    fn a_slot_round_trips_and_opens() {
        let (slot, epochs) = slot();
        let Slot::Live(read) = Slot::decode(&slot.encode()) else { panic!("not live") };
        assert!(read == slot);
        assert!(read.unwrap(&epochs).is_ok());
    }

    #[test]
    fn any_flipped_bit_is_damage_and_never_an_empty_or_a_shredded_slot() {
        let bytes = slot().0.encode();
        for at in 0..SLOT * 8 {
            let mut copy = bytes;
            copy[at / 8] ^= 1 << (at % 8);
            assert!(matches!(Slot::decode(&copy), Slot::Damaged), "bit {at}");
        }
    }

    #[test]
    fn a_shredded_slot_holds_no_byte_of_the_key() {
        assert!(matches!(Slot::decode(&Slot::SHREDDED), Slot::Shredded));
        assert!(Slot::SHREDDED[4..].iter().all(|byte| *byte == 0));
        assert!(matches!(Slot::decode(&[0; SLOT]), Slot::Empty));
    }

    #[test]
    fn a_slot_of_an_epoch_that_the_vault_lacks_says_so() {
        let (slot, _) = slot();
        let others = Epochs::fixed(vec![(3, vault::Key::from_bytes(Zeroizing::new([4; 32])))]);
        assert_eq!(slot.unwrap(&others).err(), Some(SlotError::EpochMissing));
    }
}
