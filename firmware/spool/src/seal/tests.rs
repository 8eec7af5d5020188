use super::*;
use proptest::prelude::*;

fn binding(suite: Suite) -> Binding {
    Binding { suite, message: MessageId::from_bytes([9; 16]), epoch: 3 }
}

fn key(suite: Suite) -> MessageKey {
    MessageKey::generate(binding(suite)).unwrap()
}

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

#[test]
fn a_wrapped_key_opens_only_for_its_message_epoch_and_suite() {
    let epoch = Key::<SpoolEpoch>::from_bytes(Zeroizing::new([7; 32]));
    for suite in SUITES {
        let key = key(suite);
        let (nonce, wrapped) = key.wrap(&epoch).unwrap();
        let opened = MessageKey::unwrap(binding(suite), &epoch, nonce, &wrapped).unwrap();
        assert_eq!(*opened.bytes, *key.bytes);
        for other in [
            Binding { message: MessageId::from_bytes([8; 16]), ..binding(suite) },
            Binding { epoch: 4, ..binding(suite) },
            Binding { suite: if suite == SUITES[0] { SUITES[1] } else { SUITES[0] }, ..binding(suite) },
        ] {
            assert!(MessageKey::unwrap(other, &epoch, nonce, &wrapped).is_err());
        }
    }
}

#[test]
fn a_chunk_moved_cut_off_or_repeated_does_not_open() {
    for suite in SUITES {
        let stream = key(suite).stream([1; 7]).unwrap();
        let middle = ChunkNumber { index: 1, last: false };
        let mut sealed = vec![5; 100];
        stream.seal(middle, &mut sealed).unwrap();
        for wrong in [
            ChunkNumber { index: 0, last: false },
            ChunkNumber { index: 2, last: false },
            ChunkNumber { index: 1, last: true },
        ] {
            let mut copy = sealed.clone();
            assert!(stream.open(wrong, &mut copy).is_err());
            assert!(copy.is_empty(), "nothing of a forged chunk is handed on");
        }
        stream.open(middle, &mut sealed).unwrap();
        assert_eq!(sealed, vec![5; 100]);
    }
}

#[test]
fn a_fact_does_not_open_as_another_fact_nor_as_a_snapshot() {
    let key = key(Suite::Aes256Gcm);
    let mut sealed = Vec::new();
    key.seal_piece(Role::Fact, 1, b"settled", &mut sealed).unwrap();
    assert!(key.open_piece(Role::Fact, 2, &sealed).is_err());
    assert!(key.open_piece(Role::Snapshot, 1, &sealed).is_err());
    assert_eq!(*key.open_piece(Role::Fact, 1, &sealed).unwrap(), b"settled");
}

#[test]
fn an_empty_content_still_has_one_chunk() {
    assert_eq!([0, 1, 65536, 65537].map(chunks), [1, 1, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_flipped_bit_is_noticed(bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<prop::sample::Index>(), bit in 0u8..8) {
        let stream = key(Suite::Aes256Gcm).stream([0; 7]).unwrap();
        let number = ChunkNumber { index: 0, last: true };
        let mut sealed = bytes.clone();
        stream.seal(number, &mut sealed).unwrap();
        let at = flip.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(stream.open(number, &mut sealed).is_err());
    }
}
