//! Everything that runs, in the order of need.
//!
//! Job: [`begin`] makes, from keys, what there is before the first settings, and [`Begun::open`], with settings, all that
//! a message passes through; nothing else does. Place: called at the start, when a locked vault is unlocked, and when the
//! first settings come. Invariants: sockets come last: a port that is open before keys and spool are
//! ready takes mail that it can't keep. A crash leaves what each part says of itself.

use crate::{
    deliveries,
    identity::{self, DeviceIdentity},
    judging::Judging,
    live::{Live, Parts},
    pipeline::Pipeline,
};
use delivery::{CloudClient, Relay, Retry, Routes};
use ledger::{ChainKey, DatabaseKey, Ledger, LedgerKeys};
use policy::{Policy, Workers};
use settings::Settings;
use spool::{Spool, disk::RealDisk};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};
use vault::{Identity, Keys};

/// Why the appliance can't be opened. Each says what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The file can't be read.
    #[error("{path} can't be read: {source}; check --settings", path = .0.display(), source = .1)]
    SettingsFile(PathBuf, std::io::Error),
    /// The document has errors.
    #[error("the settings have errors; correct them and start again{}", list(.0))]
    Settings(Vec<settings::Problem>),
    /// A part can't be made from the settings.
    #[error("{0}")]
    Part(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::LedgerError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] spool::OpenError),
    /// The data folder.
    #[error("{path} can't be written: {source}; check its owner and free space", path = .0.display(), source = .1)]
    Data(PathBuf, std::io::Error),
}

fn list(problems: &[settings::Problem]) -> String {
    problems.iter().map(|problem| format!("\n\n{problem}")).collect()
}

/// What is there once keys are.
pub struct Open {
    /// What messages pass through.
    pub pipeline: Arc<Pipeline>,
    /// Audit chain and settings revisions.
    pub ledger: Ledger,
    /// The identity towards the cloud.
    pub identity: Arc<Identity>,
    /// Number of the epoch key that seals now.
    pub epoch: u32,
    deliveries: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What is there with keys alone: enough for the first settings.
pub struct Begun {
    /// Audit chain and settings revisions.
    pub ledger: Ledger,
    /// The identity towards the cloud.
    pub identity: Arc<Identity>,
    keys: spool::Keys,
}

/// Opens the ledger, and finds the settings in force: the newest recorded ones, else those of `first_settings`, which
/// begin the record, else none.
///
/// # Errors
/// The ledger can't be opened, or its settings can't be read.
pub fn begin(
    data: &Path,
    first_settings: Option<&Path>,
    keys: Keys,
) -> Result<(Begun, Option<(Settings, u64)>), BuildError> {
    let Keys { epochs, index, ledger, audit, identity, .. } = keys;
    let mac = ChainKey::from_bytes(audit.expose());
    let ledger =
        Ledger::open(&data.join("ledger.db"), LedgerKeys { db: DatabaseKey::from_bytes(ledger.expose()), mac })?;
    let settings = settings(&ledger, first_settings)?;
    Ok((Begun { ledger, identity, keys: spool::Keys { epochs, index } }, settings))
}

impl Begun {
    /// Opens spool and clients with these recorded settings, and starts delivering.
    ///
    /// # Errors
    /// The first part that can't be made.
    pub fn open(
        self,
        data: &Path,
        settings: Settings,
        revision: u64,
        workers: Arc<dyn Workers>,
    ) -> Result<Open, BuildError> {
        open(self, data, settings, revision, workers)
    }
}

fn open(
    Begun { ledger, identity, keys }: Begun,
    data: &Path,
    settings: Settings,
    revision: u64,
    workers: Arc<dyn Workers>,
) -> Result<Open, BuildError> {
    let epoch = keys.epochs.current().0;
    let parts = parts(Arc::new(settings), revision, &identity)?;

    let folder = data.join("spool");
    fs::create_dir_all(&folder).map_err(|error| BuildError::Data(folder.clone(), error))?;
    let limits = &parts.settings.spool;
    let config = spool::Config {
        memory_bytes: limits.memory_bytes,
        reserve_bytes: limits.reserve_bytes,
        segment_bytes: limits.segment_bytes,
        ..spool::Config::new(folder.join("queue.db"))
    };
    let disk = RealDisk::open(&folder).map_err(|error| BuildError::Data(folder.clone(), error))?;
    let (spool, recovery) = Spool::open(config, keys, Arc::new(disk))?;
    log::info!(messages = recovery.messages, replayed = recovery.replayed, index:? = recovery.index; "the spool is open");
    for damage in &recovery.set_aside {
        log::error!(event = "set_aside", damage:?; "a damaged record was set aside; see `postern queue list`");
    }

    let places = std::thread::available_parallelism().map_or(1, usize::from) * 2;
    let pipeline = Arc::new(Pipeline {
        spool,
        live: Live::new(parts),
        judging: Judging::new(places, workers),
        counters: Default::default(),
        probes: Default::default(),
    });
    let (stop, stopped) = watch::channel(false);
    let deliveries = deliveries::start(pipeline.clone(), stopped);
    Ok(Open { pipeline, ledger, identity, epoch, deliveries, stop })
}

impl Open {
    /// Stops delivering, then closes the spool. Intake must have ended before.
    pub async fn close(self) {
        let _ = self.stop.send(true);
        let _ = self.deliveries.await;
        self.pipeline.live.parts().relay.close().await;
        self.pipeline.spool.close().await;
    }
}

/// Everything that one settings revision decides.
///
/// # Errors
/// A file that the settings name can't be used.
pub fn parts(settings: Arc<Settings>, revision: u64, identity: &Arc<Identity>) -> Result<Parts, BuildError> {
    let policy = Policy::compile(&settings.policy, &settings.internal)
        .map_err(|errors| BuildError::Part(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let relay = Relay::new(&settings).map_err(|error| BuildError::Part(error.to_string()))?;
    let device = Arc::new(DeviceIdentity::new(identity.clone(), &settings.host.name));
    let cloud = CloudClient::new(settings.cloud.as_ref(), device, identity::kept(identity).as_ref())
        .map_err(|error| BuildError::Part(error.to_string()))?;
    Ok(Parts {
        routes: Routes::new(&settings),
        retry: Retry::new(settings.retry.clone()),
        cloud: Arc::new(cloud),
        policy,
        relay,
        revision,
        settings,
    })
}

/// The recorded revision, or the file that begins the record.
fn settings(ledger: &Ledger, first: Option<&Path>) -> Result<Option<(Settings, u64)>, BuildError> {
    if let Some(revision) = ledger.current_revision()? {
        return Ok(Some((settings::parse(&revision.toml).map_err(BuildError::Settings)?, revision.info.n)));
    }
    let Some(path) = first else { return Ok(None) };
    let text = fs::read_to_string(path).map_err(|error| BuildError::SettingsFile(path.to_owned(), error))?;
    let settings = settings::parse(&text).map_err(BuildError::Settings)?;
    let info = ledger.commit_revision("first start", &text, &serde_json::Value::Null)?;
    Ok(Some((settings, info.n)))
}
