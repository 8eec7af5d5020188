//! Sections are appended where the loader will find them, and files that are none are refused with their reason.

mod common;

use common::{ALIGNMENT, program, put, stub};
use image::pe::Pe;

#[test]
fn appended_sections_follow_the_last_in_file_and_memory() {
    let before = Pe::parse(stub("257")).unwrap();
    let big = vec![3; 0x2345];
    let after = before.append(&[(".cmdline", b"quiet"), (".linux", &big), (".uname", b"6.12")]).unwrap();
    assert_eq!(after.sections()[..3], before.sections()[..]);
    let mut end = before.sections().last().map(|last| (last.address + last.size, last.offset + last.stored)).unwrap();
    for section in &after.sections()[3..] {
        assert_eq!(section.address, end.0.next_multiple_of(0x1000), "{}", section.name);
        assert_eq!(section.offset, end.1, "{}", section.name);
        assert_eq!(section.stored as usize % ALIGNMENT, 0, "{}", section.name);
        end = (section.address + section.size, section.offset + section.stored);
    }
    assert_eq!(after.contents(after.section(".cmdline").unwrap()), b"quiet");
    assert_eq!(after.contents(after.section(".linux").unwrap()), big);
    let size_of_image = u32::from_le_bytes(after.bytes()[0x40 + 24 + 56..][..4].try_into().unwrap());
    assert_eq!(size_of_image, end.0.next_multiple_of(0x1000));
    assert_eq!(after.bytes().len(), end.1 as usize);
}

#[test]
fn what_is_longer_in_memory_than_in_the_file_ends_in_zeros() {
    let mut bytes = program(&[(".data", b"abc")]);
    put(&mut bytes, 0x40 + 24 + 240 + 8, &0x1000_u32.to_le_bytes());
    let image = Pe::parse(bytes).unwrap();
    let contents = image.contents(image.section(".data").unwrap());
    assert_eq!(contents.len(), 0x1000);
    assert!(contents.starts_with(b"abc\0") && contents[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_first_of_two_sections_of_one_name_counts() {
    let image = Pe::parse(program(&[(".cmdline", b"first"), (".cmdline", b"second")])).unwrap();
    assert_eq!(image.contents(image.section(".cmdline").unwrap()), b"first");
}

#[test]
fn a_second_section_of_a_name_is_refused() {
    assert!(Pe::parse(stub("257")).unwrap().append(&[(".sbat", b"x")]).is_err());
    let once = Pe::parse(stub("257")).unwrap().append(&[(".linux", b"x")]).unwrap();
    assert!(once.append(&[(".linux", b"y")]).is_err());
    assert!(Pe::parse(stub("257")).unwrap().append(&[(".linux", b"x"), (".linux", b"y")]).is_err());
}

#[test]
fn headers_without_room_are_refused_before_a_section_is_overwritten() {
    let stub = Pe::parse(stub("257")).unwrap();
    let names: Vec<String> = (0..20).map(|number| format!(".x{number}")).collect();
    let sections: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    assert_eq!(stub.append(&sections).unwrap_err(), "its headers have no room for more sections");
    assert!(stub.append(&sections[..10]).is_ok());
}

#[test]
fn bytes_behind_the_last_section_are_refused() {
    let mut bytes = stub("257");
    bytes.extend_from_slice(b"overlay");
    assert!(Pe::parse(bytes).unwrap().append(&[(".linux", b"x")]).is_err());
}

#[test]
fn a_signed_stub_is_refused() {
    let mut bytes = stub("257");
    put(&mut bytes, 0x40 + 24 + 144, &[1; 8]);
    assert_eq!(Pe::parse(bytes).unwrap().append(&[(".linux", b"x")]).unwrap_err(), "it is signed already");
}

#[test]
fn what_is_no_64_bit_efi_application_is_refused() {
    for (at, value, reason) in [
        (0, &b"XX"[..], "it does not begin with MZ"),
        (0x40, b"NE", "it has no PE header"),
        (0x44, &[0x4c, 0x01], "it is not for x86-64"),
        (0x58, &[0x0b, 0x01], "it is no PE32+ image"),
        (0x58 + 68, &[3], "it is no EFI application"),
    ] {
        let mut bytes = stub("257");
        put(&mut bytes, at, value);
        assert_eq!(Pe::parse(bytes).unwrap_err(), reason);
    }
}

#[test]
fn no_cut_or_altered_header_is_read_beyond_its_end() {
    let whole = stub("257");
    for length in 0..whole.len() {
        // Refused, or whole as far as its headers say: never a panic.
        if let Ok(image) = Pe::parse(whole[..length].to_vec()) {
            let _ = image.append(&[(".linux", b"x")]);
        }
    }
    for at in 0..0x400 {
        let mut bytes = whole.clone();
        bytes[at] = 0xff;
        if let Ok(image) = Pe::parse(bytes) {
            let _ = image.append(&[(".linux", b"x")]);
        }
    }
    let mut far = whole;
    put(&mut far, 0x3c, &u32::MAX.to_le_bytes());
    assert!(Pe::parse(far).is_err());
}
