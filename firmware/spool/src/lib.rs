//! The durable encrypted queue.
//!
//! Job: keep every accepted message, sealed, until the next hop has taken durable responsibility for it. Place: `accept`
//! stages and commits here before the 250; `deliver` claims and settles here. Invariants: a [`Receipt`] exists only for a
//! message that is on stable storage; nothing of a message is on the disk in plain; what was settled is not sent again,
//! what is held is not released by a fault. A crash, a power cut or a full disk leaves every receipt true.
//!
//! ```text
//!  stage ──▶ commit ──▶ lane ──▶ segment (one fdatasync for many) ──▶ Receipt
//!                         │
//!                         ▼ durable facts
//!  claim ◀── queue in memory ──▶ queue.db (derived; never waited for)
//!    └─▶ settle ──▶ lane ──▶ segment ──▶ last recipient: the key is overwritten
//! ```
//!
//! The segments are the truth: message, settle, hold, release, re-route, retry, delete are records in their logs;
//! shredding is recorded where the key was, by what overwrites it. `queue.db` can be deleted at any time while the spool
//! is closed.

mod aside;
mod claim;
mod config;
mod content;
pub mod disk;
mod error;
mod fact;
mod index;
mod lane;
mod measure;
mod operate;
mod queue;
mod record;
mod recover;
mod replay;
mod scan;
mod seal;
mod segment;
mod shared;
mod slot;
mod snapshot;
mod spare;
mod spool;
mod stage;
mod view;

pub use claim::Claim;
pub use config::{Config, Keys};
pub use content::StagedReader;
pub use disk::{Disk, RealDisk};
pub use error::{CommitError, IndexError, OpenError, OperateError, SettleError, StageError};
pub use fact::{Acceptance, Event, EventKind, Group, Held, HeldBy, Planned, Settlement};
pub use lane::Receipt;
pub use measure::sealing_time;
pub use seal::Suite;
pub use spool::Spool;
pub use stage::{Staged, Staging};
pub use view::{
    ChangedRow, Damage, DestinationStats, Filter, IndexFound, Life, Recovery, Row, RowChange, RowState, SetAside, Stats,
};
