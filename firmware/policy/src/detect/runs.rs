//! Finds runs of ASCII digits.
//!
//! Job: name every run of digits of a text, in order. Place: the first half of the one pass; it reads 64 bytes at a time,
//! eight in each step. Invariants: runs are maximal, and one that crosses a border of blocks is whole. A crash leaves
//! nothing.

const ONES: u64 = 0x0101_0101_0101_0101;

/// One bit a byte: set where the byte is `0`–`9`. The lowest bit is the first byte.
fn digit_mask(block: &[u8; 64]) -> u64 {
    let mut mask = 0;
    let (words, _) = block.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // '0'–'9' become 0–9; adding 0x76 carries into bit 7 from ten on. Bytes over 0x7f keep their own bit 7.
        let shifted = word ^ (ONES * 0x30);
        let other = ((shifted & (ONES * 0x7f)) + ONES * 0x76) | shifted;
        let digits = !other & (ONES * 0x80);
        // Gathers the eight top bits into one byte; no two products meet in a bit.
        mask |= ((digits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (n * 8);
    }
    mask
}

/// Calls `found` with start and end of each run.
pub(super) fn for_each_run(bytes: &[u8], mut found: impl FnMut(usize, usize)) {
    let mut open: Option<usize> = None;
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut base = 0;
    for block in blocks {
        let mut mask = digit_mask(block);
        if let Some(start) = open {
            let ones = mask.trailing_ones();
            if ones == 64 {
                base += 64;
                continue;
            }
            found(start, base + ones as usize);
            open = None;
            mask &= u64::MAX << ones;
        }
        while mask != 0 {
            let start = mask.trailing_zeros();
            let len = (mask >> start).trailing_ones();
            if start + len == 64 {
                open = Some(base + start as usize);
                break;
            }
            found(base + start as usize, base + (start + len) as usize);
            mask &= u64::MAX << (start + len);
        }
        base += 64;
    }
    for (n, byte) in rest.iter().enumerate() {
        match (byte.is_ascii_digit(), open) {
            (true, None) => open = Some(base + n),
            (false, Some(start)) => {
                found(start, base + n);
                open = None;
            }
            _ => {}
        }
    }
    if let Some(start) = open {
        found(start, bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        for_each_run(bytes, |start, end| out.push((start, end)));
        out
    }

    fn plainly(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut out: Vec<(usize, usize)> = Vec::new();
        for (i, b) in bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()) {
            let _ = b;
            match out.last_mut() {
                Some(last) if last.1 == i => last.1 = i + 1,
                _ => out.push((i, i + 1)),
            }
        }
        out
    }

    #[test]
    fn every_byte_value_is_classed_rightly() {
        for b in 0..=255u8 {
            let mut block = [b'x'; 64];
            block[17] = b;
            assert_eq!(digit_mask(&block) != 0, b.is_ascii_digit(), "{b:#x}");
        }
        assert_eq!(digit_mask(&[b'7'; 64]), u64::MAX);
    }

    #[test]
    fn runs_over_block_borders_are_whole() {
        for start in 0..140 {
            for len in [1, 9, 63, 64, 65, 130] {
                let mut bytes = vec![b'-'; 300];
                bytes[start..start + len].fill(b'5');
                assert_eq!(runs(&bytes), [(start, start + len)]);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn blocks_find_what_a_plain_loop_finds(bytes in proptest::collection::vec(proptest::prop_oneof![0x2fu8..0x3b, 0u8..=255], 0..400)) {
            proptest::prop_assert_eq!(runs(&bytes), plainly(&bytes));
        }
    }
}
