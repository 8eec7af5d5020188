//! An appliance with a real spool and a real ledger behind a real socket, and the command line in front of it.

use clap::Parser;
use jiff::Timestamp;
use ledger::{ChainKey, DatabaseKey, Ledger, LedgerKeys, Record};
use mail::{
    Action, Address, BodyType, Client, Destination, EnhancedCode, Envelope, Finding, MessageId, Outcome,
    RecipientOutcome, RecipientVerdict, Reply, RuleMatch, Verdict,
};
use operator::{
    Adopted, Appliance, Closed, CloudState, Enrolment, Facts, Fault, KeyFacts, Locked, Opened, Operator, Refusal,
    Secret, SecureBoot, Unlocked,
    cli::{self, Face, Streams},
    health::{HealthCheck, HealthReport, HealthState},
    machine::{MachineAct, NetworkReport},
    update::UpdateReport,
};
use settings::{Roots, Settings};
use spool::{Acceptance, Config, Keys, Planned, Settlement, Spool, disk::RealDisk};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use vault::{Epochs, Key};
use zeroize::Zeroizing;

pub const WORDS: &str = "planted words of the recovery key that nobody may find again";
pub const CODE: &str = "planted-one-time-code";
pub const SETTINGS: &str =
    "host.name = 'postern.example.org'\nintake.networks = ['192.0.2.10']\nrelay.smarthost = 'mx.example.net:25'\n";

/// The appliance as the daemon would implement it, with keys that need no TPM.
pub struct Machine {
    spool: Spool,
    ledger: Ledger,
    starting: AtomicBool,
    locked: AtomicBool,
    set_up: AtomicBool,
    shown: AtomicBool,
    confirmed: AtomicBool,
    slow: Mutex<Duration>,
    update: Mutex<UpdateReport>,
    resumed: Mutex<Vec<String>>,
    settings: Mutex<(Arc<Settings>, u64)>,
    started: Timestamp,
    acts: Mutex<Vec<MachineAct>>,
}

impl Machine {
    fn lock(&self) -> Option<Locked> {
        self.locked.load(Ordering::SeqCst).then(|| {
            Locked::of(
                &"PCR 12 is not zero; start without the added command line, or enter the recovery key",
                self.started,
            )
        })
    }

    fn checks(&self, words: &Secret) -> Result<(), Refusal> {
        if words.expose() == WORDS {
            Ok(())
        } else {
            Err(Refusal::new(
                Fault::Refused,
                "these are not the words of the recovery key",
                "compare them with the paper",
            ))
        }
    }
}

impl Appliance for Machine {
    fn facts(&self) -> Facts {
        Facts {
            host: "postern.example.org".into(),
            version: "0.1.0".into(),
            development: true,
            secure_boot: SecureBoot::Off,
            addresses: vec!["192.0.2.10".parse().unwrap()],
            data_locked: None,
            set_up: self.set_up.load(Ordering::SeqCst),
            administrator: !self.settings.lock().unwrap().0.operators.is_empty(),
            started: self.started,
            listeners: vec!["127.0.0.1:25".parse().unwrap()],
            sessions: 3,
            accepted: 7,
            refused: 2,
            delivered: 5,
            cloud: CloudState::NotEnrolled,
            failing: vec![],
            alarms: vec![],
        }
    }

    fn keys(&self) -> KeyFacts {
        KeyFacts {
            locked: self.lock(),
            sealed: true,
            recovery_confirmed: self.confirmed.load(Ordering::SeqCst),
            identity: None,
            epoch: Some(1),
        }
    }

    fn ledger(&self) -> Result<Ledger, Closed> {
        if self.starting.load(Ordering::SeqCst) {
            return Err(Closed::Starting);
        }
        self.lock().map_or_else(|| Ok(self.ledger.clone()), |locked| Err(locked.into()))
    }

    fn opened(&self) -> Result<Opened, Closed> {
        self.ledger()?;
        match self.lock() {
            Some(locked) => Err(locked.into()),
            None if !self.set_up.load(Ordering::SeqCst) => Err(Closed::NotSetUp),
            None => Ok(Opened { spool: self.spool.clone(), ledger: self.ledger.clone() }),
        }
    }

    fn settings(&self) -> (Arc<Settings>, u64) {
        self.settings.lock().unwrap().clone()
    }

    async fn unlock(&self, words: Secret) -> Result<Unlocked, Refusal> {
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        self.checks(&words)?;
        self.locked.store(false, Ordering::SeqCst);
        Ok(Unlocked { resealed: true, enrol_again: false, advice: String::new() })
    }

    async fn show_recovery(&self) -> Result<Secret, Refusal> {
        if self.shown.swap(true, Ordering::SeqCst) {
            return Err(Refusal::new(Fault::Refused, "the recovery key was shown already", "read it from the paper"));
        }
        Ok(Secret::new(Zeroizing::new(WORDS.to_owned())))
    }

    async fn confirm_recovery(&self, words: Secret) -> Result<(), Refusal> {
        self.checks(&words)?;
        self.confirmed.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn renew_recovery(&self) -> Result<(), Refusal> {
        self.shown.store(false, Ordering::SeqCst);
        self.confirmed.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&self, destination: &Destination) {
        self.resumed.lock().unwrap().push(destination.to_string());
    }

    async fn enrol(&self, code: Secret) -> Result<Enrolment, Refusal> {
        if code.expose() != CODE {
            return Err(Refusal::new(Fault::Refused, "the service does not know this code", "ask for a new one"));
        }
        Ok(Enrolment { appliance: "box-1".into(), tenant: "Example Clinic".into(), valid_until: None })
    }

    fn network(&self) -> NetworkReport {
        let configured = self.settings.lock().unwrap().0.network.clone();
        NetworkReport { configured, addresses: vec!["192.0.2.10".parse().unwrap()] }
    }

    async fn health(&self) -> HealthReport {
        let state = if self.locked.load(Ordering::SeqCst) { HealthState::Failed } else { HealthState::Passed };
        HealthReport::new(vec![HealthCheck::told("keys", state, "asked of the TPM; look at it")])
    }

    async fn update_status(&self) -> Result<UpdateReport, Refusal> {
        Ok(self.update.lock().unwrap().clone())
    }

    async fn install_update(
        &self,
        source: String,
        sha256: Option<String>,
        reboot: bool,
    ) -> Result<UpdateReport, Refusal> {
        if source.ends_with("old.raucb") {
            return Err(Refusal::new(Fault::Refused, "version 0.1.0 is older than 0.2.0", "install a newer one"));
        }
        let mut update = self.update.lock().unwrap();
        update.progress = Some(format!("{source} {} {reboot}", sha256.unwrap_or_default()));
        Ok(update.clone())
    }

    async fn acknowledge_update(&self) -> Result<(), Refusal> {
        *self.update.lock().unwrap() = UpdateReport::default();
        Ok(())
    }

    async fn act_on_machine(&self, act: MachineAct) -> Result<(), Refusal> {
        if let MachineAct::PowerOff = act {
            return Err(Refusal::new(Fault::Failed, "systemctl failed", "try again"));
        }
        self.acts.lock().unwrap().push(act);
        Ok(())
    }

    async fn admit(&self, settings: &Settings) -> Result<(), Refusal> {
        match &settings.relay.ca {
            Some(Roots::File(ca)) if !ca.exists() => {
                Err(Refusal::new(Fault::Refused, format!("{} can't be read", ca.display()), "put the file there"))
            }
            _ => Ok(()),
        }
    }

    /// A message that the far end answers as the recipient's local part says.
    async fn accept_test(&self, recipient: Address) -> Result<MessageId, Refusal> {
        let id = MessageId::generate();
        let mut staging = self.spool.stage(id).unwrap();
        staging.write(b"Subject: test\r\n\r\ntest\r\n").unwrap();
        let staged = staging.finish().unwrap();
        let envelope = Envelope { recipients: vec![recipient.clone()], ..envelope(id) };
        let verdict =
            Verdict { recipients: vec![RecipientVerdict { action: Action::Relay, rule: None }], ..Verdict::default() };
        let deliveries = vec![Planned { destination: Destination::Smarthost, recipients: vec![0], held: None }];
        let acceptance = Acceptance { envelope, verdict, prefix: Vec::new(), deliveries, settings_revision: 1 };
        self.spool.commit(staged, acceptance).await.unwrap();
        let claim = self.spool.claim_from(Timestamp::now(), |_| true).unwrap();
        let reply = |code, text: &str| Reply::new(code, EnhancedCode(u8::try_from(code / 100).unwrap(), 0, 0), text);
        let outcome = match recipient.local() {
            "taken" => Outcome::Delivered(reply(250, "taken as 1")),
            "later" => Outcome::Deferred(reply(451, "come back later")),
            _ => Outcome::Failed(reply(550, "nobody of this name")),
        };
        let retry_at = matches!(outcome, Outcome::Deferred(_)).then(|| Timestamp::now() + Duration::from_secs(60));
        let outcomes = vec![RecipientOutcome { recipient: 0, outcome }];
        self.spool.settle(claim, Settlement { outcomes, retry_at }).await.unwrap();
        Ok(id)
    }

    async fn adopt(&self, settings: Settings, revision: u64) -> Result<Adopted, Refusal> {
        let before = std::mem::replace(&mut *self.settings.lock().unwrap(), (Arc::new(settings.clone()), revision)).0;
        self.set_up.store(true, Ordering::SeqCst);
        let moved = before.intake.listen != settings.intake.listen;
        Ok(Adopted { after_restart: if moved { vec!["intake.listen".into()] } else { vec![] } })
    }
}

pub struct Bench {
    folder: TempDir,
    pub appliance: Arc<Machine>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    pub status: u8,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!((self.status, self.out.as_str()), (1, ""), "{self:?}");
        self.err
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[derive(Parser)]
pub struct Arguments {
    #[command(flatten)]
    pub face: Face,
    #[command(subcommand)]
    pub command: cli::Command,
}

/// Runs a command on these arguments and this input.
pub fn run(arguments: &[&str], input: &str) -> Ran {
    let Arguments { face, command } = Arguments::parse_from([&["postern"], arguments].concat());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { input: &mut input.as_bytes(), output: &mut out, errors: &mut err, interactive: false };
    let status = cli::run_on(command, &face, &mut streams);
    Ran { status, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

impl Bench {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = LedgerKeys { db: DatabaseKey::from_bytes(&[1; 32]), mac: ChainKey::from_bytes(&[2; 32]) };
        let ledger = Ledger::open(&folder.path().join("ledger.db"), keys).unwrap();
        let epochs = Arc::new(Epochs::fixed(vec![(1, Key::from_bytes(Zeroizing::new([3; 32])))]));
        let keys = Keys { epochs, index: Key::from_bytes(Zeroizing::new([4; 32])) };
        let root = folder.path().join("spool");
        std::fs::create_dir(&root).unwrap();
        let config =
            Config { segment_bytes: 1 << 20, reserve_bytes: 1 << 20, ..Config::new(folder.path().join("queue.db")) };
        let disk = Arc::new(RealDisk::open(&root).unwrap());
        let (spool, _) = Spool::open(config, keys, disk).unwrap();
        let appliance = Arc::new(Machine {
            spool,
            ledger,
            starting: AtomicBool::new(false),
            locked: AtomicBool::new(false),
            set_up: AtomicBool::new(true),
            shown: AtomicBool::new(false),
            confirmed: AtomicBool::new(false),
            update: Mutex::default(),
            slow: Mutex::new(Duration::ZERO),
            resumed: Mutex::default(),
            settings: Mutex::new((Arc::new(settings::parse(SETTINGS).unwrap()), 0)),
            started: Timestamp::now(),
            acts: Mutex::default(),
        });
        let mut bench = Self { folder, appliance, stop: None, served: None };
        let listener = operator::bind(&bench.socket()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let operator = Arc::new(Operator::new(Arc::clone(&bench.appliance)));
        bench.stop = Some(stop);
        bench.served = Some(tokio::spawn(operator::serve(listener, operator, async {
            let _ = stopped.await;
        })));
        bench
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("operator.sock")
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The destinations that were resumed, in order.
    pub fn resumed(&self) -> Vec<String> {
        self.appliance.resumed.lock().unwrap().clone()
    }

    /// As before the first settings.
    pub fn forget_settings(&self) {
        self.appliance.set_up.store(false, Ordering::SeqCst);
    }

    /// What the machine was asked to do, in order.
    pub fn acts(&self) -> Vec<MachineAct> {
        self.appliance.acts.lock().unwrap().clone()
    }

    pub fn lock(&self) {
        self.appliance.locked.store(true, Ordering::SeqCst);
    }

    /// As before the TPM has answered for the first time.
    pub fn begin(&self) {
        self.appliance.starting.store(true, Ordering::SeqCst);
    }

    /// From now on the ledger takes nothing, as on a broken disk.
    pub fn break_ledger(&self) {
        let ledger = rusqlite::Connection::open(self.folder.path().join("ledger.db")).unwrap();
        let key = "01".repeat(32);
        ledger.execute_batch(&format!("PRAGMA key = \"x'{key}'\"; DROP TABLE audit;")).unwrap();
    }

    /// As when the TPM answers again.
    pub fn open_by_itself(&self) {
        self.appliance.locked.store(false, Ordering::SeqCst);
    }

    pub fn answer_slowly(&self, delay: Duration) {
        *self.appliance.slow.lock().unwrap() = delay;
    }

    /// The daemon's stop.
    pub async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.served.take().unwrap().await.unwrap();
    }

    /// Asks this bench's daemon, on a thread of its own, as another process would.
    pub async fn ask(&self, arguments: &[&str], input: &str) -> Ran {
        let socket = self.socket();
        let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        all.extend(["--socket".to_owned(), socket.to_str().unwrap().to_owned()]);
        let input = input.to_owned();
        let asked = move || run(&all.iter().map(String::as_str).collect::<Vec<_>>(), &input);
        tokio::task::spawn_blocking(asked).await.unwrap()
    }

    pub fn spool(&self) -> &Spool {
        &self.appliance.spool
    }

    pub fn records(&self) -> Vec<Record> {
        self.appliance.ledger.records(0, 1000).unwrap()
    }

    /// Actions and subjects of the audit chain.
    pub fn recorded(&self) -> Vec<(String, String)> {
        self.records().into_iter().map(|record| (record.action, record.subject)).collect()
    }

    /// A message to two recipients, one by SMTP and one confidential.
    pub async fn accept(&self) -> MessageId {
        let id = MessageId::generate();
        let mut staging = self.spool().stage(id).unwrap();
        staging.write(b"Subject: planted-content\r\n\r\nplanted-content\r\n").unwrap();
        let staged = staging.finish().unwrap();
        let acceptance = Acceptance {
            envelope: envelope(id),
            verdict: verdict(),
            prefix: b"Received: by postern\r\n".to_vec(),
            deliveries: vec![
                Planned { destination: Destination::Smarthost, recipients: vec![0], held: None },
                Planned { destination: Destination::Cloud, recipients: vec![1], held: None },
            ],
            settings_revision: 3,
        };
        self.spool().commit(staged, acceptance).await.unwrap();
        id
    }
}

fn envelope(id: MessageId) -> Envelope {
    Envelope {
        id,
        sender: "doctor@clinic.example".parse().unwrap(),
        recipients: vec!["friend@example.net".parse::<Address>().unwrap(), "patient@example.com".parse().unwrap()],
        body: BodyType::SevenBit,
        smtputf8: false,
        client: Client {
            ip: "192.0.2.10".parse().unwrap(),
            helo: "mail.clinic.example".into(),
            esmtp: true,
            tls: None,
        },
        received: Timestamp::now(),
    }
}

fn verdict() -> Verdict {
    Verdict {
        recipients: vec![
            RecipientVerdict { action: Action::Relay, rule: None },
            RecipientVerdict { action: Action::Secure, rule: Some("Patients".into()) },
        ],
        matches: vec![RuleMatch {
            rule: "Patients".into(),
            action: Some(Action::Secure),
            because: "us_ssn ≥ 1".into(),
            recipients: vec![1],
        }],
        findings: vec![Finding {
            detector: "us_ssn".into(),
            part: "1".into(),
            offset: 0,
            length: 11,
            score: 0.85,
            sample: "***-**-1123".into(),
        }],
        ..Verdict::default()
    }
}
