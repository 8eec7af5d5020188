//! Where key bytes live: pages that are neither swapped, dumped, nor handed to a forked child.
//!
//! Job: give out slots of 32 bytes in locked pages, and keep the process from writing core dumps. Place: below
//! [`crate::Key`]; nobody else stores key bytes for longer than a call. Invariants: a slot belongs to one owner and is
//! zeroized before it is free again; pages are never unmapped, so a slot's address stays good as long as its owner. A
//! crash leaves nothing: the pages are out of dumps (`MADV_DONTDUMP`) and out of swap (`mlock`).

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous};
use std::{
    alloc::{Layout, handle_alloc_error},
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};
use zeroize::Zeroize;

/// Bytes of one page; a page holds 128 slots, as many as its map has bits.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const SLOT: usize = 32;

/// All pages, and which slots of each are free.
static ARENA: Mutex<Arena> = Mutex::new(Arena { pages: Vec::new(), locked: true });

struct Arena {
    pages: Vec<Page>,
    /// Whether `mlock` and `madvise` have worked for each page so far.
    locked: bool,
}

struct Page {
    base: NonNull<u8>,
    /// Bit n is set while slot n has an owner.
    used: u128,
}

#[expect(unsafe_code, reason = "a page is plain memory that only the owners of its slots touch; no thread owns it")]
// SAFETY: `base` is a mapping of this process that lives until it ends, and is not tied to a thread.
unsafe impl Send for Page {}

/// 32 bytes in a locked page. Zeroized on drop.
pub(crate) struct LockedBytes {
    slot: NonNull<[u8; SLOT]>,
}

#[expect(unsafe_code, reason = "the slot is owned as a Box owns its memory; Box<[u8; 32]> is Send as well")]
// SAFETY: the slot has exactly one owner (its bit in `Page::used`), and the memory is not tied to a thread.
unsafe impl Send for LockedBytes {}
#[expect(unsafe_code, reason = "shared access is read-only, as through &Box<[u8; 32]>")]
// SAFETY: nothing writes through `&LockedBytes`.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// A slot with a copy of `bytes`.
    pub(crate) fn of(bytes: &[u8; SLOT]) -> Self {
        let mut locked = ARENA.lock().unwrap_or_else(PoisonError::into_inner).take();
        locked.bytes_mut().copy_from_slice(bytes);
        locked
    }

    #[expect(unsafe_code, reason = "reads the slot")]
    pub(crate) fn bytes(&self) -> &[u8; SLOT] {
        // SAFETY: the slot is mapped, initialised (mmap gives zeros), aligned for u8, and owned by self.
        unsafe { self.slot.as_ref() }
    }

    #[expect(unsafe_code, reason = "writes the slot")]
    fn bytes_mut(&mut self) -> &mut [u8; SLOT] {
        // SAFETY: as in `bytes`, and `&mut self` is the only access.
        unsafe { self.slot.as_mut() }
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        ARENA.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.slot.cast());
    }
}

impl Arena {
    fn take(&mut self) -> LockedBytes {
        let free = self.pages.iter().position(|page| page.used != u128::MAX).unwrap_or_else(|| self.map_page());
        let page = &mut self.pages[free];
        let slot = page.used.trailing_ones();
        page.used |= 1 << slot;
        #[expect(unsafe_code, reason = "a slot's address inside its page")]
        // SAFETY: slot < 128, so the offset stays inside the page's 4096 bytes.
        let address = unsafe { page.base.add(slot as usize * SLOT) };
        LockedBytes { slot: address.cast() }
    }

    /// Marks the slot at `address` free.
    fn give_back(&mut self, address: NonNull<u8>) {
        for page in &mut self.pages {
            if let Some(offset) = address.addr().get().checked_sub(page.base.addr().get())
                && offset < PAGE.get()
            {
                page.used &= !(1 << (offset / SLOT));
            }
        }
    }

    /// Maps and locks one more page; its place in the list.
    #[expect(unsafe_code, reason = "mmap, mlock and madvise are unsafe to call")]
    fn map_page(&mut self) -> usize {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no other memory.
        let Ok(base) = (unsafe { mmap_anonymous(None, PAGE, access, MapFlags::MAP_PRIVATE) }) else {
            handle_alloc_error(Layout::new::<[u8; 4096]>())
        };
        // SAFETY: exactly the page that was just mapped, nobody else has its address. Without WIPEONFORK a forked
        // worker would begin life with the keys in its memory.
        let locked = unsafe {
            mlock(base, PAGE.get()).is_ok()
                & madvise(base, PAGE.get(), MmapAdvise::MADV_DONTDUMP).is_ok()
                & madvise(base, PAGE.get(), MmapAdvise::MADV_WIPEONFORK).is_ok()
        };
        if !locked && self.locked {
            log::warn!("memory for keys could not be locked; raise LimitMEMLOCK of the service");
        }
        self.locked &= locked;
        self.pages.push(Page { base: base.cast(), used: 0 });
        self.pages.len() - 1
    }
}

/// Whether every page that holds keys is locked and kept out of dumps.
pub(crate) fn all_locked() -> bool {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner).locked
}

/// Forbids core dumps of this process, and other processes of its user to read its memory (`ptrace`, `/proc/PID/mem`).
///
/// To be called first in `main`; what this process starts inherits the limit, but sets its own dumpable flag at exec.
///
/// # Errors
/// What the kernel says, where it refuses.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that holds `address`, from `/proc/self/smaps`.
    fn flags_of(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let first = line.split_whitespace().next().unwrap();
            if let Some((from, to)) = first.split_once('-') {
                let bound = |text| usize::from_str_radix(text, 16).unwrap();
                inside = (bound(from)..bound(to)).contains(&address);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.to_owned();
            }
        }
        panic!("no mapping holds the address");
    }

    #[test]
    fn key_bytes_are_locked_and_neither_dumped_nor_inherited() {
        let locked = LockedBytes::of(&[7; 32]);
        let flags = flags_of(locked.slot.addr().get());
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split_whitespace().any(|f| f == flag), "{flag} missing in {flags}");
        }
        assert!(all_locked());
    }

    #[test]
    fn a_slot_is_zeroized_before_it_is_given_out_again() {
        let mut arena = Arena { pages: Vec::new(), locked: true };
        let mut first = arena.take();
        first.bytes_mut().fill(9);
        let address = first.slot;
        std::mem::forget(first); // its page is not in ARENA, which drop gives it back to
        arena.give_back(address.cast());
        assert_eq!(arena.take().slot, address);

        let kept: Vec<_> = (0..300u32).map(|n| LockedBytes::of(&[n as u8; 32])).collect();
        assert!(kept.iter().enumerate().all(|(n, slot)| slot.bytes() == &[n as u8; 32]), "slots overlap");
        let last = kept[299].slot;
        drop(kept);
        #[expect(unsafe_code, reason = "looks at freed slots on purpose")]
        // SAFETY: pages are never unmapped.
        let left = unsafe { *last.as_ptr() };
        assert_eq!(left, [0; 32]);
    }

    #[test]
    fn after_forbidding_them_there_are_no_core_dumps() {
        forbid_core_dumps().unwrap();
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
        assert_eq!((limit, nix::sys::prctl::get_dumpable().unwrap()), ((0, 0), false));
    }
}
