//! Where things are.
//!
//! Job: name each device, file and folder that more than one part of the helper uses, once. Place: beside everything of
//! the helper; the daemon reads some of these files. Invariants: partitions are named by udev's links, which exist for
//! the disk with our GUID alone (board/common/overlay/usr/lib/udev/rules.d/61-postern.rules); what root writes for
//! others lies in [`RUN`], where nobody else writes. A crash leaves nothing behind: these are names.

/// The boot partition of slot a.
pub const BOOT_A: &str = "/dev/postern/boot-a";
/// The boot partition of slot b.
pub const BOOT_B: &str = "/dev/postern/boot-b";
/// The plain area, the record of starts, and last words.
pub const PLAIN: &str = "/dev/postern/plain";
/// The root that runs, under verity: the device that the kernel makes of its command line.
pub const ROOT: &str = "/dev/dm-0";
/// The encrypted partition.
pub const DATA: &str = "/dev/postern/data";

/// Root's own folder for what the others read. `/run/postern` is the daemon's, who could lay links there.
pub const RUN: &str = "/run/postern-root";
/// Which slot runs.
pub const SLOT: &str = "/run/postern-root/slot";
/// The slot that an update would write; RAUC chooses the kernel image by it.
pub const UPDATE_VARIANT: &str = "/run/postern-root/update-variant";
/// This slot's signed PCR policies, for the daemon.
pub const SIGNATURES: &str = "/run/postern-root/policy-signatures.json";
/// There while `/data` is a tmpfs; holds why.
pub const LOCKED: &str = "/run/postern-root/data-locked";
/// There while the image that runs has shown that it works; `postern-trial.service` runs where it is not.
pub const GOOD: &str = "/run/postern-root/good";
/// What RAUC says while it installs.
pub const PROGRESS: &str = "/run/postern-root/update-progress";
/// Held during an installation.
pub const UPDATE_LOCK: &str = "/run/postern-root/update.lock";
/// Whether the firmware starts signed systems only: `on`, `off` or `setup_mode`.
pub const SECURE_BOOT: &str = "/run/postern-root/secure-boot";
/// There where keys may be sealed to this start; without it no data partition is made.
pub const MAY_SEAL: &str = "/run/postern-root/may-seal";
/// There while the data partition was opened by the recovery key and is not bound to this machine anew.
pub const BY_KEY: &str = "/run/postern-root/data-by-key";
/// The helper's socket.
pub const SOCKET: &str = "/run/postern-root/helper.sock";
/// Where the boot partition of the running slot is mounted.
pub const BOOT: &str = "/run/postern-root/boot";
/// What the daemon may know of starts and fallbacks.
pub const STARTS: &str = "/run/postern-root/starts.json";
/// Held while record and firmware are changed together.
pub const STARTS_LOCK: &str = "/run/postern-root/starts.lock";
/// There while two disks of ours are in the machine; holds their names.
pub const TWO_DISKS: &str = "/run/postern-root/two-disks";
